"""The device of the tests for GPUs, and what moves there."""
from __future__ import annotations

import copy
import os

import pytest
import torch


@pytest.fixture
def device(monkeypatch):
    """A CUDA device; the CPU where ``MMAFAN_GPU_TESTS_ON=cpu`` asks to try the tests themselves."""
    if os.environ.get('MMAFAN_GPU_TESTS_ON') == 'cpu':
        return torch.device('cpu')
    if not torch.cuda.is_available():
        pytest.skip('no CUDA device is visible')
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)  # whose products have 10 bits
    return torch.device('cuda')


@pytest.fixture
def cuda(device):
    """A CUDA device, for what the CPU has not."""
    if device.type != 'cuda':
        pytest.skip('about what CUDA alone has, and the tests are tried on the CPU')
    return device


@pytest.fixture(params=['segmentation', 'detection'])
def small_model(request):
    """The module that builds small models of a task, the name of one, and a batch for it."""
    pytest.importorskip('mmcv.ops', reason='the model needs mmcv with its operators')
    if request.param == 'detection':
        pytest.importorskip('mmdet', reason='the small detector is a model of mmdet')
        from .. import detectors
        return detectors, 'faster_rcnn', detectors.make_batch(masks=False)
    pytest.importorskip('mmseg', reason='the small segmentor is a model of mmseg')
    from .. import segmentors
    return segmentors, 'deeplabv3plus', segmentors.make_batch()


@pytest.fixture
def moved():
    """Return a function that copies a preprocessed batch to a device."""

    def move(batch, device, memory_format=torch.contiguous_format):
        samples = [sample.to(device) for sample in copy.deepcopy(batch['data_samples'])]
        return dict(inputs=batch['inputs'].to(device, memory_format=memory_format, copy=True), data_samples=samples)

    return move
