"""Outputs of the head that no adversarial pass reads are not kept, and nothing else changes."""
from __future__ import annotations

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import nn

from mmafan import afan_model
from mmafan.passes import Recording
from mmafan.passes.unused import Watch, stand_in


class Net(BaseModel):
    """A chain of two layers ``a`` and ``b`` before the tap ``t``, and ``c`` after it."""
    late = False

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


class InTheTail(Net):

    def run(self, x):
        h = self.a(x)
        return self.c(self.t(self.b(h))) + h


class NativeModule(Net):
    """The tail has a layer that works where torch functions are not seen, as mmcv's operators do."""

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


class DrawsInTheTail(Net):

    def run(self, x):
        h = self.c(self.t(self.b(self.a(x))))
        return h * torch.rand(h.shape)


class Later(Net):

    def run(self, x):
        h = self.a(x)
        t = self.t(self.b(h))
        return self.c(t + h) if self.late else self.c(t)


class LaterLoss(Net):

    def run(self, x):
        h = self.a(x)
        loss = self.c(self.t(self.b(h)))
        return h if self.late else loss


def make(cls, **tap):
    model = afan_model(cls)(afan=dict(taps=dict(s=dict(dict(module='t', step_size=0.3), **tap)))).train()
    return model, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))


def step(model, wrapper):
    torch.manual_seed(3)
    return model.train_step(dict(inputs=torch.randn(4, 6)), wrapper)


@pytest.mark.parametrize('cls, unused', [
    (Net, {'a', 'b'}), (Operation, {'b'}), (Method, {'b'}), (Shape, {'b'}), (InTheTail, {'b'}), (NativeModule, {'b'}),
    (Draws, set()), (DrawsInTheTail, {'a', 'b'}),
])
def test_what_is_read_is_known_after_the_first_step(cls, unused):
    model, wrapper = make(cls)
    step(model, wrapper)
    assert model.afan.unused == {'s': unused}


@pytest.mark.parametrize('tap', [{}, dict(fraction=0.5), dict(num_steps=2)], ids=['plain', 'fraction', 'pgd'])
@pytest.mark.parametrize('cls', [Net, Operation, Shape, InTheTail, Draws])
def test_a_step_without_them_is_the_same(cls, tap):
    model, wrapper = make(cls, **tap)
    step(model, wrapper)
    other, its_wrapper = make(cls, **tap)
    step(other, its_wrapper)
    other.afan.unused = {}
    log, expected = step(model, wrapper), step(other, its_wrapper)
    assert log.keys() == expected.keys() and all(torch.equal(log[k], expected[k]) for k in log)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters()))


def test_they_take_no_memory():
    model, wrapper = make(Net)
    step(model, wrapper)
    with Recording(model, model.afan.taps, 4, True, set(), (), {}, model.afan.unused, []) as recording:
        model.run(torch.randn(4, 6))
    outputs = [record.output for record in recording.captures['s'].head]
    assert [tuple(output.shape) for output in outputs] == [(4, 6), (4, 6)]
    assert all(output.is_meta for output in outputs)
    assert not any(record.watched for record in recording.captures['s'].head)


def test_another_tap_may_read_them():
    """The output of ``a`` is the other tap's feature's input alone, that of ``b`` is what its tail goes on from."""
    model = afan_model(InTheTail)(afan=dict(taps=dict(
        late=dict(module='t', step_size=0.1), early=dict(module='b', step_size=0.1)))).train()
    step(model, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    assert model.afan.unused == {'late': {'b'}, 'early': set()}


@pytest.mark.parametrize('cls', [Later, LaterLoss])
def test_an_output_first_read_in_a_later_step_is_one_sentence(cls):
    model, wrapper = make(cls)
    step(model, wrapper)
    model.late = True
    with pytest.raises(RuntimeError, match="^an adversarial pass of tap 's' reads .* set afan.replay=False$"):
        step(model, wrapper)


def test_a_stand_in_keeps_shapes_and_what_is_no_tensor():
    first, (second, text) = stand_in([torch.zeros(2, 3), (torch.ones(1, dtype=torch.long), 'x')])
    assert (first.shape, first.dtype, second.dtype, text) == ((2, 3), torch.float32, torch.int64, 'x')
    assert first.is_meta and second.is_meta


def test_nothing_is_watched_afterwards():
    model, wrapper = make(Net)
    step(model, wrapper)
    assert torch.overrides._get_current_function_mode_stack() == []
    assert not nn.modules.module._global_forward_pre_hooks
    with Watch() as watch:
        watch.hand_out(model.a, torch.zeros(1)) + 1
    assert watch.read == {id(model.a)}
