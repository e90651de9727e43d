"""Random batches for classifiers, for models that take views, and for grey images."""
from __future__ import annotations

import pytest
import torch
from mmengine.config import Config

from mmafan.conformance.batches import make_batch

pytest.importorskip('mmpretrain.models', reason='the batches are for models of mmpretrain')

VIEW = [dict(type='RandomResizedCrop', scale=224, backend='pillow'),
        dict(type='RandomApply', transforms=[dict(type='ColorJitter', brightness=0.8, hue=0.2)], prob=0.8),
        dict(type='RandomFlip', prob=0.5)]


def config(**fields):
    model = dict(type='X', head=dict(num_classes=3))
    return Config(dict(dict(default_scope='mmpretrain', model=model), **fields))


def test_images_with_labels():
    batch = make_batch(config(), 2, 16)
    assert batch['inputs'].shape == (2, 3, 16, 16) and len(batch['data_samples']) == 2
    grey = make_batch(config(data_preprocessor=dict(mean=[0.0], std=[1.0])), 2, 16)
    assert grey['inputs'].shape == (2, 1, 16, 16)


def test_views_come_from_the_pipeline():
    pipeline = [dict(type='LoadImageFromFile'), dict(type='MultiView', num_views=[2, 1], transforms=[VIEW, VIEW[:1]]),
                dict(type='PackInputs')]
    cfg = config(data_preprocessor=dict(type='SelfSupDataPreprocessor'),
                 train_dataloader=dict(dataset=dict(pipeline=pipeline)))
    batch = make_batch(cfg, 2, 32)
    assert [view.shape for view in batch['inputs']] == [torch.Size([2, 3, 32, 32])] * 3
    assert cfg.train_dataloader.dataset.pipeline[1]['transforms'][0][0]['scale'] == 224  # the config stays as it is
    assert make_batch(cfg, 2, None)['inputs'][0].shape == (2, 3, 224, 224)
