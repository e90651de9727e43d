"""Recording and replay on small networks whose forward does what stock models do not."""
from __future__ import annotations

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import nn

from mmafan import afan_model

from ..training import record_warnings


class Net(BaseModel):
    """Linear layers ``a``, ``b``, ``t``, ``c`` and a subclass's way through them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        for name in 'abtc':
            setattr(self, name, nn.Linear(6, 6))
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return {'loss': self.run(inputs).square().mean()} if mode == 'loss' else None


class InPlaceBeforeTap(Net):

    def run(self, x):
        h = self.a(x)
        h += self.b(x)
        return self.c(self.t(torch.tanh(h)) + h)


class InPlaceAfterTap(Net):
    """As ``out += identity`` of a residual block whose shortcut is the tap."""

    def run(self, x):
        h = self.a(x)
        h += self.t(x + self.b(x))
        return self.c(h)


class SharedActivation(Net):
    """An activation in place, used before and after the tap, and dropout on both sides."""

    def run(self, x):
        h = self.drop(self.act(self.a(x)))
        return self.c(self.drop(self.act(self.t(h)))) + h


class SeveralCalls(Net):
    """The tap's module runs twice in one forward, as shared heads of detectors do."""

    def run(self, x):
        return self.c(self.act(self.t(self.a(x))) + self.t(self.b(x)))


class TupleTap(Net):

    class Pair(nn.Module):

        def forward(self, x):
            return x[:, :3], {'rest': x[:, 3:], 'size': torch.tensor(6), 'scale': torch.tensor(1.5)}, 'text'

    def __init__(self):
        super().__init__()
        self.t = self.Pair()

    def run(self, x):
        first, second, _ = self.t(self.a(x))
        return self.c(torch.cat([first, second['rest'] * second['scale']], dim=1))


NETS = [InPlaceBeforeTap, InPlaceAfterTap, SharedActivation, SeveralCalls, TupleTap]


def gradients(cls, schedule, replay, steps=3, **tap):
    tap = dict(dict(module='t', step_size=0.3, strengths=(0.5, 1.0)), **tap)
    model = afan_model(cls)(afan=dict(taps=dict(s=tap), schedule=schedule, replay=replay)).double()
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper, found = OptimWrapper(optimizer), []
    update = optimizer.step

    def step():
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        update()

    optimizer.step = step
    for number in range(steps):  # mutable outputs are found in the first step and copied from the second on
        torch.manual_seed(number)
        model.train_step(dict(inputs=torch.randn(5, 6, dtype=torch.float64)), wrapper)
    return found


@pytest.mark.parametrize('cls', NETS)
@pytest.mark.parametrize('tap', [{}, dict(fraction=0.6), dict(num_steps=2)], ids=['plain', 'fraction', 'pgd'])
def test_replay_equals_running_the_prefix_again(cls, tap):
    if cls is SharedActivation and 'fraction' in tap:  # a prefix that runs on fewer samples draws other dropout masks
        tap = dict(tap, fraction=1.0)
    expected = gradients(cls, 'two_phase', False, **tap)
    for schedule in ('two_phase', 'single_graph'):
        found = gradients(cls, schedule, True, **tap)
        for left, right in zip(found, expected):
            assert left.keys() == right.keys() and left
            for name in right:
                assert torch.allclose(left[name], right[name], rtol=0, atol=1e-12), (schedule, name)


@pytest.mark.parametrize('cls, changed', [(InPlaceBeforeTap, {'a'}), (InPlaceAfterTap, {'a'}),
                                          (SharedActivation, set())])
def test_only_outputs_changed_in_place_are_copied(cls, changed):
    """An activation in place replays as well as the layer before it: nothing to copy."""
    model = afan_model(cls)(afan=dict(taps=dict(s=dict(module='t', step_size=0.1)))).train()
    model.train_step(dict(inputs=torch.randn(4, 6)), OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    assert model.afan.facts.changed_in_place == changed


def test_an_output_first_changed_in_a_later_step_runs_the_prefix_again():
    """Once, with a warning; from then on it is copied. The gradients are those of a model that never replays."""

    class Later(Net):
        late = False

        def run(self, x):
            h = self.a(x)
            if self.late:
                h += 1
            return self.c(self.t(h) + h)

    weights = []
    for replay in (True, False):
        model = afan_model(Later)(afan=dict(taps=dict(s=dict(module='t', step_size=0.1)), replay=replay)).train()
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
        torch.manual_seed(5)
        model.train_step(dict(inputs=torch.randn(4, 6)), wrapper)
        with record_warnings() as warnings:
            for _ in range(3):
                model.late = True
                model.train_step(dict(inputs=torch.randn(4, 6)), wrapper)
        assert sum("['a'] is changed in place" in text for text in warnings) == replay
        weights.append([p.detach() for p in model.parameters()])
        assert not replay or model.afan.facts.changed_in_place == {'a'}
    assert all(torch.allclose(*pair, rtol=0, atol=1e-7) for pair in zip(*weights))


def test_a_tap_that_runs_another_number_of_times_is_refused():

    calls = []

    class Fickle(Net):

        def run(self, x):
            calls.append(x)  # what a model keeps itself is in a pass as the clean one found it
            x = self.t(self.a(x))
            return self.c(self.t(x) if len(calls) % 2 else x)

    model = afan_model(Fickle)(afan=dict(taps=dict(s=dict(module='t', step_size=0.1)))).train()
    with pytest.raises(ValueError, match='^Fickle must give the same loss when a batch comes again'):
        model.train_step(dict(inputs=torch.randn(4, 6)), OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
