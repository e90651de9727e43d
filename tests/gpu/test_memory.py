"""Peak memory on a GPU: that of two-phase does not grow with the number of strengths, single-graph's does."""
from __future__ import annotations

import functools

import pytest
import torch
from mmengine.optim import OptimWrapper

from mmafan.analysis.memory import peak_memory

pytest.importorskip('mmpretrain', reason='the tiny classifier is a model of mmpretrain')

pytestmark = pytest.mark.gpu


def test_two_phase_needs_less_than_single_graph(tiny_classifier, tiny_batch, device, moved):
    peaks = {}
    for schedule in ('two_phase', 'single_graph'):
        for strengths in ((1.0, ), (0.25, 0.5, 0.75, 1.0)):
            tap = dict(module='backbone.layer1', step_size=0.1, strengths=strengths)
            model = tiny_classifier(afan=dict(taps=dict(s=tap), batch_norm='batch', schedule=schedule)).to(device)
            wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.0))
            step = functools.partial(model.train().train_step, moved(tiny_batch(64, 64), device), wrapper)
            for _ in range(3):  # the first checks, and learns what may be let go
                step()
            peaks[schedule, len(strengths)] = peak_memory(step, device)
    print('measured: peak memory in MiB,', {k: round(v / 2**20, 1) for k, v in peaks.items()})
    assert peaks['two_phase', 4] < 1.1 * peaks['two_phase', 1]
    assert peaks['single_graph', 4] > 1.5 * peaks['two_phase', 4]
