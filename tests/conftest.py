"""What tests share: reproducible draws, a tiny classifier, a tiny batch, and the sample data."""
from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

# The same examples in every run; `--hypothesis-profile slow` tries ten times as many.
settings.register_profile('default', derandomize=True, deadline=None, database=None, max_examples=30)
settings.register_profile('slow', settings.get_profile('default'), max_examples=300)
settings.load_profile('default')

REPO = Path(__file__).resolve().parents[1]

# What the machine of the tests may lack; whatever else is missing fails there, as it would hide what is not tested.
MAY_LACK = ('deepspeed', 'about machines without CUDA', 'about two processes on a CPU', 'cannot be mounted here',
            'is no address of this machine', 'FSDP does not run on a CPU',
            'comes without new-style configs', 'with the package cosmic-ray', 'ONNX files with the package onnx',
            'the backend writes with', 'opened with a headless Chromium', 'is no codebase that mmafan needs')


def fail_where_all_is_there(report):
    """Turn a skip into a failure with ``CI=true``, unless the machine may lack what it names."""
    if report.outcome != 'skipped' or os.environ.get('CI') != 'true' or not isinstance(report.longrepr, tuple):
        return
    reason = report.longrepr[2]
    if not any(words in reason for words in MAY_LACK):
        report.outcome = 'failed'
        report.longrepr = f'{reason}: with CI=true, data and packages of the default set must be there'


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport():
    fail_where_all_is_there((yield).get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report():
    fail_where_all_is_there((yield).get_result())


@pytest.fixture(autouse=True, scope='session')
def logger():
    """Make mmengine's logger, which writes to the screen of that moment: not to what the first test captures."""
    from mmengine.logging import MMLogger
    MMLogger.get_current_instance()


@pytest.fixture(autouse=True)
def reproducible():
    """Seed every generator, and leave neither a default scope nor a running pass behind."""
    from mmengine.registry import DefaultScope

    from mmafan.replay import PassKind, current_pass
    scopes = DefaultScope._instance_dict.copy()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(scopes)
    assert current_pass().kind is PassKind.CLEAN


@pytest.fixture
def repo():
    """Folder of the repository."""
    return REPO


@pytest.fixture
def shared_data():
    """Folder of the sample data, which lies beside the repository."""
    path = REPO.parent / 'shared' / 'data'
    if not path.is_dir():
        pytest.skip(f'the sample data is not there: {path}')
    return path


def merge(base, changes):
    """Merge nested dicts as a downstream config does; ``None`` for a base that is a dict replaces it."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


@pytest.fixture
def tiny_config():
    """Return a function that makes the config of a classifier with 3 classes for images from 8x8."""
    pytest.importorskip('mmpretrain', reason='the tiny classifier is a model of mmpretrain')

    def config(type='mmafan.AFANImageClassifier', afan='default', **overrides):
        if afan == 'default':
            afan = dict(taps=dict(s=dict(module='backbone.layer1', step_size=0.1)))
        base = dict(
            type=type,
            _scope_='mmpretrain',
            backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(
                type='LinearClsHead', num_classes=3, in_channels=32,
                loss=dict(type='CrossEntropyLoss', loss_weight=1.0)))
        if afan is not None:
            base['afan'] = afan
        return merge(base, overrides)

    return config


@pytest.fixture
def tiny_classifier(tiny_config):
    """Return a function that builds the classifier of :func:`tiny_config`, with seed 0."""
    from mmengine.registry import MODELS

    def build(type='mmafan.AFANImageClassifier', afan='default', **overrides):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return MODELS.build(tiny_config(type, afan, **overrides))

    return build


@pytest.fixture
def tiny_batch():
    """Return a function that makes what a data loader gives for a classifier with 3 classes."""
    pytest.importorskip('mmpretrain', reason='the labels travel in data samples of mmpretrain')
    from mmpretrain.structures import DataSample

    def batch(size=4, image_size=8, seed=0):
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(size, 3, image_size, image_size, generator=generator)
        labels = torch.randint(3, (size, ), generator=generator).tolist()
        return dict(inputs=inputs, data_samples=[DataSample().set_gt_label(n) for n in labels])

    return batch


@pytest.fixture
def group():
    """A process group of this process alone."""
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()
