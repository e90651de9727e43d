"""Small versions of stock mmseg segmentors, and random images with label maps, for tests."""
from __future__ import annotations

import copy

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

RESNET = dict(depth=18, base_channels=8, stem_channels=8)
AUXILIARY = dict(in_channels=32, channels=8, num_classes=4)
MASK2FORMER = dict(
    in_channels=[8, 16, 32, 64], feat_channels=32, out_channels=32, num_queries=10, num_classes=4,
    pixel_decoder=dict(norm_cfg=dict(num_groups=4), positional_encoding=dict(num_feats=16),
                       encoder=dict(num_layers=1, layer_cfg=dict(
                           self_attn_cfg=dict(embed_dims=32), ffn_cfg=dict(embed_dims=32, feedforward_channels=32)))),
    positional_encoding=dict(num_feats=16),
    transformer_decoder=dict(num_layers=2, layer_cfg=dict(
        self_attn_cfg=dict(embed_dims=32), cross_attn_cfg=dict(embed_dims=32),
        ffn_cfg=dict(embed_dims=32, feedforward_channels=32))),
    loss_cls=dict(class_weight=[1.0] * 4 + [0.1]), train_cfg=dict(num_points=64))
SEGMENTORS = dict(
    deeplabv3plus=('deeplabv3plus/deeplabv3plus_r50-d8_4xb4-20k_voc12aug-512x512.py', dict(
        backbone=RESNET, auxiliary_head=AUXILIARY,
        decode_head=dict(in_channels=64, channels=16, c1_in_channels=8, c1_channels=4, num_classes=4,
                         dilations=(1, 2, 3, 4)))),
    segformer=('segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', dict(
        backbone=dict(embed_dims=8, num_layers=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], drop_path_rate=0.2,
                      init_cfg=None),
        decode_head=dict(in_channels=[8, 8, 8, 8], channels=16, num_classes=4))),
    pspnet=('pspnet/pspnet_r50-d8_4xb4-20k_voc12aug-512x512.py', dict(
        backbone=RESNET, auxiliary_head=AUXILIARY,
        decode_head=dict(in_channels=64, channels=16, num_classes=4))),
    mask2former=('mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py', dict(
        backbone=dict(RESNET, init_cfg=None, norm_cfg=dict(requires_grad=True)), decode_head=MASK2FORMER)),
)
BACKBONE_TAPS = dict(deeplabv3plus='backbone.layer3', segformer='backbone.layers.1', pspnet='backbone.layer3',
                     mask2former='backbone.layer2')


def stock_config(name, sync_bn=False, **changes):
    """Return the model config of a small stock segmentor, with BN in place of SyncBN unless ``sync_bn``."""
    import mmseg
    path, small = SEGMENTORS[name]
    cfg = Config.fromfile(f'{mmseg.__path__[0]}/.mim/configs/{path}')
    cfg.model.pop('_scope_', None)
    cfg.model.pop('pretrained', None)
    cfg.model.pop('data_preprocessor', None)
    cfg.merge_from_dict(dict(model=copy.deepcopy(small)))
    cfg.merge_from_dict(dict(model=changes))

    def use_bn(value):
        if isinstance(value, dict):
            if value.get('type') == 'SyncBN':
                value['type'] = 'BN'
            for item in value.values():
                use_bn(item)

    if not sync_bn:
        use_bn(cfg.model)
    return cfg.model


def build(name, afan=None, double=False, seed=1, **changes):
    """Build a small segmentor; with ``afan`` its A-FAN version."""
    init_default_scope('mmseg')
    cfg = stock_config(name, **changes)
    if afan is not None:
        cfg.update(type=f'mmafan.AFAN{cfg.type}', afan=copy.deepcopy(afan))
    torch.manual_seed(seed)
    model = MODELS.build(cfg)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel()**-0.5)
    model.train()
    return model.double() if double else model


def make_batch(num_images=3, size=(64, 64), seed=5, dtype=torch.float32, ignored=0, margin=8):
    """Make preprocessed arguments of ``loss``: random images and label maps of blocks.

    Args:
        ignored: Number of images, the first ones, that are all ignore label.
        margin: Rows of ignore label at the top of every image.
    """
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    random = np.random.RandomState(seed)
    samples = []
    for index in range(num_images):
        labels = random.randint(4, size=(size[0] // 16, size[1] // 16)).repeat(16, axis=0).repeat(16, axis=1)
        labels[:margin] = 255
        if index < ignored:
            labels[:] = 255
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size))
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels).long()[None])
        samples.append(sample)
    inputs = torch.from_numpy(random.randn(num_images, 3, *size)).to(dtype)
    return dict(inputs=inputs, data_samples=samples)
