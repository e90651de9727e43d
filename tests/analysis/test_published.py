"""The authors' schedule: the same gradient by other means, and the passes it is made of."""
from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import nn

from mmafan import afan_model
from mmafan.analysis.published import published_step, published_tap
from mmafan.config import TapConfig


@afan_model
class Net(BaseModel):
    """Two convolutions and a classifier, which count their calls."""

    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.tail = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.fc = nn.Linear(4, 3)
        calls = dict(head=0, tail=0)
        self.calls = lambda: calls  # not an attribute with state: passes leave those as the clean one has left them
        for name in calls:
            getattr(self, name)[0].register_forward_hook(self._counter(calls, name))

    def _counter(self, calls, name):

        def count(*_):
            calls[name] += 1

        return count

    def forward(self, inputs, labels, mode='tensor'):
        scores = self.fc(self.tail(self.head(inputs)).mean((2, 3)))
        return dict(loss=F.cross_entropy(scores, labels)) if mode == 'loss' else scores


def make(**tap):
    torch.manual_seed(0)
    fields = dict(module='head', step_size=0.1, weight=0.5)
    fields.update(tap)
    return Net(afan=dict(taps=dict(a=fields), clean_weight=0.5, batch_norm='shared')).double()


def batch():
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(3, 2, 8, 8, generator=generator, dtype=torch.float64),
            torch.tensor([0, 1, 2]))


def gradient_of(model, step):
    """Gradients that one step applies, taken from a rate of 1 without momentum."""
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0))
    before = copy.deepcopy(dict(model.named_parameters()))
    step(model, batch(), wrapper)
    return {name: before[name] - p for name, p in model.named_parameters()}


@pytest.mark.parametrize('tap', [
    dict(),
    dict(num_steps=3),
    dict(strengths=(0.5, 1.0), reinject=(False, True), weight=(0.2, 0.3)),
], ids=['one-step', 'three-steps', 'two-strengths'])
def test_same_gradient_as_both_schedules_of_this_package(tap):
    published = gradient_of(make(**tap), published_step)
    assert max(float(g.detach().abs().max()) for g in published.values()) > 1e-3
    for schedule in ('two_phase', 'single_graph'):
        model = make(**tap)
        object.__setattr__(model.afan.config, 'schedule', schedule)
        ours = gradient_of(model, lambda m, data, wrapper: m.train_step(data, wrapper))
        for name, gradient in published.items():
            torch.testing.assert_close(ours[name], gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('tap, tails', [
    (dict(), 3),
    (dict(num_steps=5), 7),
    (dict(strengths=(0.25, 0.5, 0.75, 1.0)), 6),
    (dict(strengths=(0.5, 1.0), strength_sampling='random', fraction=0.5), 4),
])
def test_number_of_passes(tap, tails):
    model = make(**tap)
    gradient_of(model, published_step)
    # The head runs for the feature and in the clean pass; the tail for each attack step, each
    # strength and in the clean pass.
    assert model.calls() == dict(head=2, tail=tails)


def test_two_phase_runs_head_once_and_tail_once_more_for_one_strength():
    model = make()
    gradient_of(model, lambda m, data, wrapper: m.train_step(data, wrapper))
    model.calls().update(head=0, tail=0)  # the first step's checks make passes of their own
    gradient_of(model, lambda m, data, wrapper: m.train_step(data, wrapper))
    assert model.calls() == dict(head=1, tail=2)


def test_leaves_no_hooks_behind():
    model = make()
    gradient_of(model, published_step)
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert sum(len(m._forward_hooks) for m in model.modules()) == 2  # the counters


def test_drawn_strengths_become_passes_of_the_same_total_weight():
    tap = published_tap(TapConfig('head', 0.1, strengths=(0.5, 1.0), strength_sampling='random',
                                  weight=0.6, fraction=0.5))
    assert (tap.strength_sampling, tap.weight, tap.fraction) == ('all', (0.3, 0.3), 1.0)


def test_tap_at_the_inputs_is_refused():
    with pytest.raises(ValueError, match=r"taps\.a\.module must name a module .* got 'inputs'"):
        published_step(make(module='inputs'), batch(),
                       OptimWrapper(torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)))
