"""Outputs of the prefix that no adversarial pass reads are not kept, and nothing else changes."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mmafan import afan_model
from mmafan.replay import Recording
from mmafan.replay.unread import StandIn, Watch

from ..training import record_warnings


class Net(BaseModel):
    """A chain of two layers ``a`` and ``b`` before the tap ``t``, and ``c`` after it."""
    late = None

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        for name in 'abtc':
            setattr(self, name, nn.Linear(6, 6))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return {'loss': self.run(inputs).square().mean()} if mode == 'loss' else None

    def run(self, x):
        return self.c(self.t(self.b(self.a(x))))


class Operation(Net):

    def run(self, x):
        return self.c(self.t(self.b(torch.tanh(self.a(x)))))


class Method(Net):

    def run(self, x):
        return self.c(self.t(self.b(self.a(x).tanh())))


class Shape(Net):

    def run(self, x):
        h = self.a(x)
        return self.c(self.t(self.b(h))) + h.shape[1]


class InTheSuffix(Net):

    def run(self, x):
        h = self.a(x)
        return self.c(self.t(self.b(h))) + h


class NativeModule(Net):
    """The suffix has a layer that works where torch functions are not seen, as mmcv's operators do."""

    class Native(nn.Module):

        def forward(self, x, y):
            with torch._C.DisableTorchFunction():
                return x + y

    def __init__(self):
        super().__init__()
        self.native = self.Native()

    def run(self, x):
        h = self.a(x)
        return self.native(self.c(self.t(self.b(h))), h)


class Draws(Net):

    def run(self, x):
        h = self.a(x)
        if torch.rand(()) < 0.5:  # in another step it may be read
            return self.c(self.t(self.b(h))) + h
        return self.c(self.t(self.b(h)))


class DrawsInTheSuffix(Net):

    def run(self, x):
        h = self.c(self.t(self.b(self.a(x))))
        return h * torch.rand(h.shape)


@torch.jit.script
def fused(x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    x += h
    return x


class Script(Net):

    def run(self, x):
        h = self.a(x)
        return fused(self.c(self.t(self.b(h))), h)


class Keyword(NativeModule):

    def run(self, x):
        h = self.a(x)
        return self.native(self.c(self.t(self.b(h))), y=h)


class SharedLayer(Net):
    """A layer before and after the tap, which has the first layer's output as an argument in the suffix alone."""

    class Native(nn.Module):

        def forward(self, x):
            with torch._C.DisableTorchFunction():
                return x + 1

    def __init__(self):
        super().__init__()
        self.native = self.Native()

    def run(self, x):
        h = self.a(x)
        t = self.t(self.native(self.b(h)))
        return self.c(t) + self.native(h)


def add(x, h):
    return x + h


def add_in_place(x, h):
    x += h
    return x


def assign(x, h):
    x[0] = h[0]
    return x


def put(x, h):
    x = x.clone()
    x[:, 0] = 0
    x[torch.arange(4)] = h
    return x


def index(x, h):
    return x[h.long().clamp(0, 3)[:, 0]]


def masked(x, h):
    return x.masked_fill(h > 0, 0.)


def instead(x, h):
    return h


class Later(Net):

    def run(self, x):
        h = self.a(x)
        found = self.c(self.t(self.b(h)))
        return self.late(found, h) if self.late else found


def make(cls, **tap):
    model = afan_model(cls)(afan=dict(taps=dict(s=dict(dict(module='t', step_size=0.3), **tap)))).train()
    return model, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))


def step(model, wrapper):
    torch.manual_seed(3)
    return model.train_step(dict(inputs=torch.randn(4, 6)), wrapper)


@pytest.mark.parametrize('cls, unused', [
    (Net, {'a', 'b'}), (Operation, {'b'}), (Method, {'b'}), (Shape, {'b'}), (InTheSuffix, {'b'}), (NativeModule, {'b'}),
    (Script, {'b'}), (Keyword, {'b'}), (SharedLayer, {'b', 'native'}), (Draws, set()), (DrawsInTheSuffix, {'a', 'b'}),
])
def test_what_is_read_is_known_after_the_first_step(cls, unused):
    model, wrapper = make(cls)
    step(model, wrapper)
    assert model.afan.facts.unread == {'s': unused}


@pytest.mark.parametrize('tap', [{}, dict(fraction=0.5), dict(num_steps=2)], ids=['plain', 'fraction', 'pgd'])
@pytest.mark.parametrize('cls', [Net, Operation, Shape, InTheSuffix, Draws])
def test_a_step_without_them_is_the_same(cls, tap):
    model, wrapper = make(cls, **tap)
    step(model, wrapper)
    other, its_wrapper = make(cls, **tap)
    step(other, its_wrapper)
    other.afan.facts = replace(other.afan.facts, unread={})
    log, expected = step(model, wrapper), step(other, its_wrapper)
    assert log.keys() == expected.keys() and all(torch.equal(log[k], expected[k]) for k in log)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters()))


def test_they_take_no_memory():
    model, wrapper = make(Net)
    step(model, wrapper)
    with Recording(model, model.afan.taps, 4, model.afan.facts) as recording:
        model.run(torch.randn(4, 6))
    prefix = recording.captures['s'].prefix
    assert [type(record.output) for record in prefix] == [StandIn, StandIn]
    assert all(record.unread and not record.watched for record in prefix)


def test_another_tap_may_read_them():
    """The output of ``a`` is the other tap's feature's input alone, that of ``b`` is what its suffix goes on from."""
    model = afan_model(InTheSuffix)(afan=dict(taps=dict(
        late=dict(module='t', step_size=0.1), early=dict(module='b', step_size=0.1)))).train()
    step(model, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    assert model.afan.facts.unread == {'late': {'b'}, 'early': set()}


@pytest.mark.parametrize('late', [add, add_in_place, assign, put, index, masked, instead, fused])
@pytest.mark.parametrize('tap', [{}, dict(num_steps=2)], ids=['plain', 'pgd'])
def test_an_output_first_read_in_a_later_step_repeats_the_pass(late, tap):
    """With the prefix running again, once; TorchScript keeps the cause to itself. Then the output is kept."""
    weights = []
    for replay in (True, False):
        model = afan_model(Later)(afan=dict(taps=dict(s=dict(dict(module='t', step_size=0.3), **tap)),
                                            replay=replay)).train()
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
        step(model, wrapper)
        model.late = late
        with record_warnings() as warnings:
            for _ in range(2):
                step(model, wrapper)
        assert sum("an adversarial pass reads what 'a' returned" in text for text in warnings) == replay
        assert not replay or model.afan.facts.unread == {}
        weights.append([p.detach() for p in model.parameters()])
    assert all(torch.allclose(*pair, rtol=0, atol=1e-6) for pair in zip(*weights))


def test_an_error_of_the_model_is_not_repeated():
    model, wrapper = make(Later)
    step(model, wrapper)
    runs = []

    def fail(x, h):
        runs.append(len(runs))
        if len(runs) > 1:
            raise RuntimeError('of its own')
        return x

    model.late = fail
    with pytest.raises(RuntimeError, match='of its own'):
        step(model, wrapper)
    assert len(runs) == 2


def test_a_batch_that_proves_little_says_nothing_about_what_is_read(monkeypatch):
    from mmafan.models import first_step
    monkeypatch.setattr(first_step, 'PATIENCE', 1)
    model, wrapper = make(Net)
    monkeypatch.setattr(model.afan.codebase, 'lacks_targets', lambda *_: True)
    step(model, wrapper)
    assert model.afan.facts is None
    step(model, wrapper)
    assert model.afan.facts is not None and model.afan.facts.unread == {}


@pytest.mark.parametrize('read', [lambda t: t + 1, lambda t: t.shape, lambda t: torch.zeros(1).add_(t), Tensor.clone,
                                  lambda t: t.device, lambda t: torch.cat([torch.zeros(1), t]),
                                  lambda t: torch._C._VariableFunctions.relu(t)])
def test_a_stand_in_refuses_to_be_read(read):
    with pytest.raises(RuntimeError, match="^an adversarial pass reads what 'stem' returned"):
        read(StandIn('stem'))


def test_a_stand_in_refuses_to_be_read_by_native_code():
    with pytest.raises(RuntimeError, match="an adversarial pass reads what 'stem' returned"):
        with torch._C.DisableTorchFunction():
            torch.zeros(1).add_(StandIn('stem'))


def test_nothing_is_watched_afterwards():
    model, wrapper = make(Net)
    step(model, wrapper)
    assert torch.overrides._get_current_function_mode_stack() == []
    assert not nn.modules.module._global_forward_pre_hooks
    with Watch() as watch:
        watch.hand_out(model.a, torch.zeros(1)) + 1
    assert watch.read == {id(model.a)}
