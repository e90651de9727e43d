"""Models that their own forward changes: momentum networks and queues are as after a step of the stock model."""
from __future__ import annotations

import itertools
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel, ExponentialMovingAverage
from mmengine.optim import OptimWrapper
from torch import nn

from mmafan.analysis import prove
from mmafan.analysis.proof import stock_copy
from mmafan.models import afan_model

from ..rule import Plain, assert_rule, batch_of, gradients, tapped


class Contrast(BaseModel):
    """A small MoCo: an encoder, one that follows it, a queue of keys that belongs to the model itself."""

    def __init__(self, follows):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False))
        encoder = nn.Sequential(self.stem, self.late)
        if follows == 'averaged':
            self.keys = ExponentialMovingAverage(encoder, 0.1)
        else:
            self.keys = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)).requires_grad_(False)
        self.follows, self.calls = follows, 0
        self.keys.requires_grad_(follows == 'by hand, with gradients')  # as some set it in init_weights alone
        self.register_buffer('queue', torch.randn(4, 8))

    def _follow(self):
        if self.follows == 'averaged':
            return self.keys.update_parameters(nn.Sequential(self.stem, self.late))
        for keys, own in zip((self.keys[0], self.keys[1]), (self.stem[0], self.late[0])):
            for name, parameter in keys.named_parameters():
                parameter.data = .9 * parameter.data + .1 * own.get_parameter(name).data

    def forward(self, inputs, data_samples=None, mode='tensor'):
        self.calls += 1
        queries = self.late(self.stem(inputs)).mean((2, 3))
        with torch.no_grad():
            self._follow()
            keys = self.keys(inputs).mean((2, 3))
        logits = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ self.queue.clone()], 1)
        self.queue[:, :len(keys)] = keys.T * self.calls
        return dict(loss=nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long)))


@pytest.mark.parametrize('follows', ['averaged', 'by hand', 'by hand, with gradients'])
@pytest.mark.parametrize('module', ['stem', 'late.0'])
def test_what_a_forward_changes_is_as_after_a_stock_step(follows, module):
    torch.manual_seed(1)
    model = afan_model(Contrast)(follows, afan=dict(taps=dict(t=dict(module=module, step_size=0.1))))
    proof = prove(model, dict(inputs=torch.randn(4, 3, 8, 8), data_samples=None))
    assert proof.holds, proof.wrong
    assert proof.before and proof.after


@pytest.mark.parametrize('follows', ['averaged', 'by hand'])
def test_a_network_that_begins_equal_is_known_in_later_steps(follows):
    """In the first step it is copied, or stays what it is: its values say nothing."""
    torch.manual_seed(1)
    afan = afan_model(Contrast)(follows, afan=dict(taps=dict(t=dict(module='stem', step_size=0.0, weight=1e-9))))
    if follows == 'by hand':
        afan.keys[0].load_state_dict(afan.stem[0].state_dict())
        afan.keys[1].load_state_dict(afan.late[0].state_dict())
    stock = stock_copy(afan)
    for number in range(3):
        data = dict(inputs=torch.randn(4, 3, 8, 8), data_samples=None)
        for model in (stock, afan):
            model.train_step(data, OptimWrapper(torch.optim.SGD([*model.stem.parameters()], lr=0.1)))
    for (name, left), right in zip(stock.keys.state_dict().items(), afan.keys.state_dict().values()):
        torch.testing.assert_close(right, left, rtol=1e-5, atol=1e-6, msg=name)
    torch.testing.assert_close(afan.queue, stock.queue)


class Normalizing(BaseModel):
    """A model that writes to a weight before it is used, past the graph, as SwAV does with its prototypes."""

    def __init__(self):
        super().__init__()
        self.stem, self.prototypes = nn.Conv2d(3, 4, 3), nn.Linear(4, 5, bias=False)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        features = self.stem(inputs).mean((2, 3))
        with torch.no_grad():
            self.prototypes.weight.copy_(nn.functional.normalize(self.prototypes.weight + 0.1))
        return dict(loss=self.prototypes(features).square().mean())


def test_a_weight_that_the_forward_writes_to():
    model = afan_model(Normalizing)(afan=dict(taps=dict(t=dict(module='stem', step_size=0.1, strengths=(0.5, 1.0)))))
    proof = prove(model, dict(inputs=torch.randn(4, 3, 8, 8), data_samples=None))
    assert proof.holds, proof.wrong
    for schedule in ('two_phase', 'single_graph'):  # every pass of several
        model = afan_model(Normalizing)(afan=dict(schedule=schedule, taps=dict(
            t=dict(module='stem', step_size=0.1, strengths=(0.5, 1.0), num_steps=2, radius=0.2))))
        model.train_step(dict(inputs=torch.randn(4, 3, 8, 8), data_samples=None),
                         OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))


class Counting(Normalizing):
    """A model that begins otherwise in its first forward, which a buffer remembers past its counter of versions."""

    def __init__(self):
        super().__init__()
        self.register_buffer('begun', torch.zeros(1))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        found = super().forward(inputs, data_samples, mode)
        factor = 2 + self.begun.clone()
        self.begun.data.copy_(torch.ones(1))
        return {name: value * factor for name, value in found.items()}


def test_a_buffer_that_is_written_to_past_its_version_is_as_the_clean_pass_found_it():
    torch.manual_seed(1)
    model = afan_model(Counting)(afan=dict(taps=dict(t=dict(module='stem', step_size=0.1))))
    proof = prove(model, dict(inputs=torch.randn(4, 3, 8, 8), data_samples=torch.tensor([0, 1, 2, 1])))
    assert proof.holds, proof.wrong


class Drawing(Plain):
    """A model with random streams of its own, and a counter in an object, on both sides of the tap."""

    def build(self):
        super().build()
        self.torch, self.numpy = torch.Generator().manual_seed(1), np.random.RandomState(1)
        self.newer, self.python, self.counter = np.random.default_rng(1), random.Random(1), SimpleNamespace(number=0)

    def losses(self, inputs, data_samples):
        self.counter.number += 1
        noise = torch.rand(inputs.shape, generator=self.torch, dtype=inputs.dtype)
        x = self.mid(self.stem(inputs + noise) * self.numpy.rand() * self.newer.random())
        x = x + torch.rand(x.shape, generator=self.torch, dtype=x.dtype) * self.numpy.rand() * self.newer.random()
        return dict(loss=self.classify(x * self.python.random(), data_samples) / self.counter.number)


@pytest.mark.parametrize('replay', [True, False])
def test_streams_and_counters_of_a_model_are_put_back(replay):
    assert_rule(Drawing, lambda number: batch_of(seed=number), before=('stem', 'mid'), tap='mid', replay=replay)


class Numbered(Plain):
    """A model whose loss is another one each time, by what nobody can put back."""

    numbers = itertools.count(1)

    def losses(self, inputs, data_samples):
        return dict(loss=self.classify(self.mid(self.stem(inputs)), data_samples) / next(self.numbers))


class Storing(Plain):
    """A part before the tap that leaves its result in its argument alone."""

    class Part(nn.Conv2d):

        def forward(self, given):
            given['x'] = super().forward(given['inputs'])

    def build(self):
        super().build()
        self.stem = self.Part(3, 4, 3, padding=1)

    def losses(self, inputs, data_samples):
        given = dict(inputs=inputs)
        self.stem(given)
        return dict(loss=self.classify(self.mid(given['x']) + given['x'], data_samples))


class Penalized(Plain):
    """A loss of the gradient of the images."""

    def losses(self, inputs, data_samples):
        inputs = inputs.clone().requires_grad_()
        x = self.mid(self.stem(inputs))
        gradient, = torch.autograd.grad(x.square().sum(), inputs, create_graph=True)
        return dict(loss=self.classify(x, data_samples) + gradient.square().mean())


@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
@pytest.mark.parametrize('net, replay, sentence', [
    (Numbered, True, 'AFANNumbered must give the same loss when a batch comes again'),
    (Numbered, False, 'AFANNumbered must give the same loss when a batch comes again'),
    (Storing, True, 'afan.replay must be False for this model: .* ends in KeyError'),
    (Penalized, True, 'afan.taps.t.module must name .* ends in RuntimeError .it takes gradients itself'),
    (Penalized, False, 'afan.taps.t.module must name .* ends in RuntimeError .it takes gradients itself')])
def test_what_cannot_be_repeated_is_refused_with_its_cause(net, replay, sentence, schedule):
    with pytest.raises(ValueError, match=sentence):
        gradients(tapped(net, afan=dict(replay=replay, schedule=schedule)), batch_of())


def test_what_stores_its_result_in_its_argument_trains_without_replay():
    assert_rule(Storing, lambda number: batch_of(seed=number), before=('stem', 'mid'), tap='mid', replay=False)
