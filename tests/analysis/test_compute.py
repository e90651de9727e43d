"""Operations of a training, against those of every layer computed by hand."""
from __future__ import annotations

import pytest
import torch
from mmengine.config import Config

pytest.importorskip('mmpretrain', reason='the network is of mmpretrain')
pytest.importorskip('torch.utils.flop_counter', reason='torch 2.1 counts operations')

from mmafan.analysis import compute  # noqa: E402

# LeNet-5 on images of 32 x 32: two operations for each product of an image (mmpretrain/models/backbones/lenet.py).
CONV1 = 2 * 6 * 28 * 28 * (1 * 5 * 5)
CONV2 = 2 * 16 * 10 * 10 * (6 * 5 * 5)
CONV3 = 2 * 120 * 1 * 1 * (16 * 5 * 5)
HEAD = 2 * 10 * 120
# Forward, gradient of the weights, gradient of the input; the images need none.
STOCK = 2 * CONV1 + 3 * CONV2 + 3 * CONV3 + 3 * HEAD
# The second pass begins behind the first pooling: its input needs no gradient.
TAIL = 2 * CONV2 + 3 * CONV3 + 3 * HEAD
IMAGES, BATCHES = 4, 5


def config(afan=None, **train_cfg):
    model = dict(type='mmpretrain.ImageClassifier', backbone=dict(type='mmpretrain.LeNet5'),
                 neck=dict(type='mmpretrain.GlobalAveragePooling'),
                 head=dict(type='mmpretrain.LinearClsHead', num_classes=10, in_channels=120))
    if afan:
        model.update(type='mmafan.AFANImageClassifier', afan=afan)
    return Config(dict(
        default_scope='mmpretrain', model=model, train_cfg=train_cfg or dict(max_epochs=2),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
        data_preprocessor=dict(mean=[0.], std=[255.])))


@pytest.fixture(autouse=True)
def images(monkeypatch):
    from mmpretrain.structures import DataSample

    def read(cfg, count):
        samples = [DataSample().set_gt_label(i) for i in range(IMAGES)]
        return [dict(inputs=torch.zeros(IMAGES, 1, 32, 32), data_samples=samples)] * count, BATCHES

    monkeypatch.setattr(compute, 'read_batches', read)


def tap(**fields):
    return dict(taps=dict(stage=dict(dict(module='backbone.features.2', step_size=0.1, step_unit='std'), **fields)))


@pytest.mark.parametrize('afan, expected', [
    (None, STOCK),
    (tap(), STOCK + TAIL),
    (tap(strengths=(0.25, 0.5, 0.75, 1.0)), STOCK + 4 * TAIL),
    (tap(fraction=0.5), STOCK + TAIL / 2),
    (tap(fraction=0.125), STOCK + TAIL / 8),  # one image in every other step
    (tap(direction='random_sign'), STOCK + TAIL),
])
def test_a_training_by_hand(afan, expected):
    assert compute.count_training_flops(config(afan)) == expected * IMAGES * 2 * BATCHES


def test_iterations_are_those_of_the_loop():
    assert compute.count_training_flops(config(max_iters=7, by_epoch=False)) == STOCK * IMAGES * 7
    with pytest.raises(ValueError, match='train_cfg must have max_epochs or max_iters, got'):
        compute.count_training_flops(config(val_interval=1))
