"""Where a model's losses begin: at ``loss``, at ``forward``, or at a ``_run_forward`` of its own."""
from __future__ import annotations

import pytest
import torch
from torch import nn

from mmafan import afan_model

from ..rule import Plain, batch_of, by_part, ratios, tapped


class Helper(Plain):
    """A helper has the name that the codebases give to the entry."""

    def loss(self, logits, labels):
        return nn.functional.cross_entropy(logits, labels)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        logits = self.head(self.mid(self.stem(inputs)).tanh().mean((2, 3)))
        return dict(loss_a=self.loss(logits, data_samples)) if mode == 'loss' else logits


class StaticHelper(Helper):
    loss = staticmethod(nn.functional.cross_entropy)


class Chosen(Helper):
    """A field has that name."""
    loss = 'cross_entropy'

    def forward(self, inputs, data_samples=None, mode='tensor'):
        logits = self.head(self.mid(self.stem(inputs)).tanh().mean((2, 3)))
        return dict(loss_a=getattr(nn.functional, self.loss)(logits, data_samples))


class LossLayer(Plain):
    """A layer has that name."""
    forward = Helper.forward

    def build(self):
        super().build()
        self.loss = nn.CrossEntropyLoss()


class HeadHelper(Helper):
    """A helper with the signature of the entry, of which the forward makes something else."""

    def loss(self, inputs, data_samples):
        return dict(loss_b=self.classify(inputs, data_samples))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = self.mid(self.stem(inputs))
        losses = self.loss(x, data_samples)
        return dict(losses, loss_a=self.head(x.mean((2, 3))).square().mean())


class OwnRun(Plain):
    """Its data go another way to the forward."""

    def _run_forward(self, data, mode):
        assert set(data) == {'inputs', 'data_samples'}
        return self(data['inputs'] * 2, targets=data['data_samples'], mode=mode)

    def forward(self, images, targets=None, mode='tensor'):
        return dict(loss_a=self.classify(self.mid(self.stem(images)), targets))


class AroundForward(OwnRun):
    """Its losses are computed without the forward."""

    def _run_forward(self, data, mode):
        assert mode == 'loss'
        return dict(loss_a=self.classify(self.mid(self.stem(data['inputs'] * 2)), data['data_samples']))

    def forward(self, *args, **kwargs):
        raise AssertionError('nobody calls it')


class AddsLosses(OwnRun):
    """Its losses are those of the forward and one more."""

    def _run_forward(self, data, mode):
        losses = super()._run_forward(data, mode)
        return dict(losses, loss_b=self.head(self.mid(self.stem(data['inputs'])).mean((2, 3))).square().mean())


@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
@pytest.mark.parametrize('net', [Helper, StaticHelper, Chosen, LossLayer, HeadHelper, OwnRun, AroundForward,
                                 AddsLosses])
def test_the_rule_holds(net, schedule):
    model = tapped(net, afan=dict(schedule=schedule))
    for seed in range(2):
        assert by_part(ratios(net, model, batch_of(seed=seed))) == dict(stem=1, mid=1, head=2)


@pytest.mark.parametrize('net', [Helper, OwnRun])
def test_the_decorated_class_is_the_stock_one_while_a_fan_is_off(net):
    made = afan_model(net)(afan=dict(taps=dict(t=dict(module='mid', step_size=0.1)))).train()
    made.afan.controls.strength_scale = 0.0
    for _ in range(2):
        assert by_part(ratios(net, made, batch_of())) == dict(stem=1, mid=1, head=1)
    found, expected = [model._run_forward(batch_of(), 'loss')['loss_a'] for model in (made, net())]
    assert torch.equal(found, expected)
