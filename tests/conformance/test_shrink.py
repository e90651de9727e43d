"""What is made smaller in a config, and what is left as it is."""
from __future__ import annotations

import copy

import pytest
from torch import nn

from mmafan.conformance.shrink import narrow_resnet, short_resnets, shrink_model


def test_nothing_is_loaded_and_nothing_needs_a_gpu():
    model = dict(type='X', pretrained='a.pth', norm_cfg=dict(type='SyncBN', requires_grad=True),
                 backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='b.pth'), with_cp=True, depth=50,
                               init=dict(init_cfg=[dict(type='Normal'), dict(type='Pretrained', checkpoint='c')])),
                 heads=[dict(norm_cfg=dict(type='MMSyncBN'), init_cfg=dict(type='Normal', layer='Conv2d'))])
    assert shrink_model(model) is model
    assert model == dict(type='X', pretrained=None, norm_cfg=dict(type='BN', requires_grad=True),
                         backbone=dict(init_cfg=None, with_cp=False, depth=50, init=dict(init_cfg=None)),
                         heads=[dict(norm_cfg=dict(type='BN'), init_cfg=dict(type='Normal', layer='Conv2d'))])


def test_stages_are_short_and_images_small():
    model = dict(depths=[2, 2, 18, 2], img_size=(512, 512), stage=dict(num_modules=4, num_blocks=(4, 4)),
                 head=dict(img_size=224, num_blocks='all'), pretrained=True)
    assert shrink_model(copy.deepcopy(model), 64) == dict(
        depths=[2, 2, 2, 2], img_size=(64, 64), stage=dict(num_modules=1, num_blocks=(1, 1)),
        head=dict(img_size=64, num_blocks='all'), pretrained=True)
    assert shrink_model(copy.deepcopy(model))['img_size'] == (512, 512)


def test_images_are_not_padded_to_large_ones_and_classes_are_in_one_sentence():
    model = dict(data_preprocessor=dict(size_divisor=640, test_cfg=dict(size_divisor=32)), text=dict(templates='vild'))
    assert shrink_model(copy.deepcopy(model), 64) == dict(
        data_preprocessor=dict(size_divisor=64, test_cfg=dict(size_divisor=32)), text=dict(templates=['{}']))
    assert shrink_model(copy.deepcopy(model))['data_preprocessor'] == model['data_preprocessor']


def test_who_takes_the_features_of_a_narrow_resnet():
    model = dict(backbone=dict(type='ResNet', depth=50), neck=dict(in_channels=[256, 512], out_channels=256),
                 bbox_head=dict(in_channels=256))
    assert narrow_resnet(model)
    assert model['neck'] == dict(in_channels=[64, 128], out_channels=256)
    assert model['bbox_head'] == dict(in_channels=256)
    model = dict(backbone=dict(type='ResNetV1c'),
                 decode_head=[dict(in_channels=1024, channels=256), dict(in_channels=2)],
                 auxiliary_head=dict(in_channels=1024, in_index=2))
    assert narrow_resnet(model)
    assert model['decode_head'] == [dict(in_channels=256, channels=64), dict(in_channels=0)]
    assert model['auxiliary_head'] == dict(in_channels=256, in_index=2)
    for other in (dict(backbone=dict(type='Swin')), dict(backbone=dict(type='ResNet', base_channels=32)), dict()):
        before = copy.deepcopy(other)
        assert not narrow_resnet(other) and other == before


def test_resnets_are_short_inside_alone():
    resnet = pytest.importorskip('mmpretrain.models', reason='the ResNet is one of mmpretrain').ResNet
    before = resnet.arch_settings
    with pytest.raises(KeyError):
        with short_resnets():
            assert resnet.arch_settings[101] == (before[101][0], (1, 1, 1, 1))
            assert isinstance(resnet(50).layer3, nn.Sequential) and len(resnet(50).layer3) == 1
            raise KeyError
    assert resnet.arch_settings is before and len(resnet(50).layer3) == 6
