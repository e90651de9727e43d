"""The clean loss of a step, whatever else it logs, and what other processes add to it."""
from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from mmafan.hooks import clean_loss as module
from mmafan.hooks.clean_loss import clean_loss


def runtime(on=True, clean_weight=0.5, frozen=False):
    return SimpleNamespace(is_on=on, config=SimpleNamespace(clean_weight=clean_weight, taps=dict(stem=None)),
                           meters=SimpleNamespace(frozen=frozen))


@pytest.mark.parametrize('outputs, on, expected', [
    ({'loss': 9.0, 'loss_cls': 1.0, 'loss_box': 2.0, 'adv_stem_0.loss_cls': 6.0, 'acc': 5.0}, True, 6.0),
    ({'loss': 3.0, 'loss_cls': 1.0, 'loss_box': 2.0, 'acc': 5.0}, False, 3.0),
    ({'loss': torch.tensor(2.0)}, False, 2.0),
    ({'loss': 4.0, 'clean_loss': torch.tensor(1.0), 'adv_stem_0.loss': 3.0}, True, 2.0),
    # No tap takes part in this step: its losses are weighted all the same.
    ({'loss': 1.0, 'clean_loss': 1.0}, True, 2.0),
    # A loss of the model itself, by a name of its own.
    ({'loss': 3.0, 'adv_loss': 1.0, 'loss_cls': 2.0}, False, 3.0),
    # A training step of the model's own that logs the total alone.
    ({'loss': 4.0}, True, 4.0),
])
def test_by_hand(outputs, on, expected):
    assert clean_loss(outputs, runtime(on)) == expected


def test_a_process_without_a_loss_takes_part_in_the_mean(monkeypatch):
    calls = []
    monkeypatch.setattr(module, 'all_reduce', lambda tensor, op: calls.append((float(tensor), op)))
    assert clean_loss({'norm': 1.0}, runtime()) is None
    assert math.isnan(calls[0][0]) and calls[0][1] == 'mean'


def test_processes_weigh_alike_where_no_tap_takes_part_in_one(monkeypatch):
    """The mean of what they send is the same number in all."""
    monkeypatch.setattr(module, 'all_reduce', lambda tensor, op: tensor.fill_(3.0))
    assert clean_loss({'clean_loss': 1.0}, runtime()) == clean_loss({'clean_loss': 1.0, 'adv_stem_0.loss': 2.0},
                                                                    runtime()) == 3.0
