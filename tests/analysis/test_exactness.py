"""When two values agree, how far two runs lie apart, and the settings under which a GPU repeats itself."""
from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from mmafan.analysis.exactness import (Spread, agrees, difference, exact_arithmetic, measure_spread, set_seed,
                                       stream_states, usable_device)
from mmafan.analysis.reference import Reference

NAN, INF = float('nan'), float('inf')


@pytest.mark.parametrize('found, right, allowed, expected', [
    ([1.0, 2.0], [1.0, 2.0], 0.0, True), ([1.0, 2.0000002], [1.0, 2.0], 0.0, False),
    ([1.0, 2.002], [1.0, 2.0], 1.1e-3, True), ([1.0, 2.002], [1.0, 2.0], 0.9e-3, False),
    ([NAN, 1.0], [NAN, 1.0], 0.0, True), ([NAN, 1.0], [0.0, 1.0], 1.0, False), ([INF], [NAN], 0.0, False),
    ([1.0], [1.0, 1.0], 1.0, False), ([], [], 0.0, True)])
def test_two_values_agree(found, right, allowed, expected):
    assert agrees(torch.tensor(found), torch.tensor(right), allowed) is expected


def test_whole_numbers_agree_to_the_last_digit():
    assert agrees(torch.tensor([5]), torch.tensor([5]))
    assert not agrees(torch.tensor([1000001]), torch.tensor([1000000]), 1.0)


def test_differences_are_fractions_of_the_largest_entry():
    assert difference(torch.tensor([1.0, -4.4]), torch.tensor([1.0, -4.0])) == pytest.approx(0.1)
    assert difference(torch.tensor([1e-9]), torch.tensor([0.0]), scale=1.0) == pytest.approx(1e-5)
    assert difference(torch.zeros(0), torch.zeros(0)) == 0.0


def test_the_largest_difference_of_two_runs_by_kind():
    def run(loss, gradient, buffer):
        model = nn.BatchNorm1d(1)
        model.running_mean += buffer
        return Reference(dict(loss=torch.tensor(loss)), dict(w=torch.tensor(gradient)), {}), model

    found = measure_spread(run(2.0, [4.0, 0.0], 1.0), run(2.5, [4.0, 0.4], 1.5))
    assert found == pytest.approx(dict(loss=0.25, gradient=0.1, buffer=0.5), rel=1e-3)
    assert found.allows('loss') == pytest.approx(2.5) and Spread().allows('loss') == 0.0 == found.allows('parameter')


def test_streams_begin_anew():
    def draw():
        return random.random(), np.random.rand(), float(torch.rand(()))

    set_seed(3)
    first, states = draw(), stream_states()
    set_seed(3)
    assert draw() == first and stream_states() == states
    random.random()
    assert stream_states() != states


def test_settings_of_a_gpu_come_back():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    kept = cudnn.allow_tf32, matmul.allow_tf32, torch.are_deterministic_algorithms_enabled()
    with exact_arithmetic('cpu'):
        assert (cudnn.allow_tf32, matmul.allow_tf32, torch.are_deterministic_algorithms_enabled()) == kept
    with pytest.raises(KeyError), exact_arithmetic('cuda'):
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
        assert not cudnn.allow_tf32 and not matmul.allow_tf32
        raise KeyError
    assert (cudnn.allow_tf32, matmul.allow_tf32, torch.are_deterministic_algorithms_enabled()) == kept


def test_devices_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert usable_device('cpu') == 'cpu'
    for name in ('cuda', 'gpu', 'meta'):
        with pytest.raises(ValueError, match=f"--device must be 'cpu', or 'cuda' where .* sees a GPU, got '{name}'"):
            usable_device(name)
