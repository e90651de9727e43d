"""What layers leave in attributes is in a pass as if they ran, and afterwards what the clean pass left."""
from __future__ import annotations

import pytest
import torch
from torch import nn

from ..nets import Net, rows
from ..rule import assert_rule, build, train


def data(number):
    return (rows(number), )


class Expert(nn.Module):
    """A layer that leaves a balancing loss behind, as those of a mixture of experts do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        output = self.layer(x)
        self.aux_loss = output.square().mean()
        return output


class Counting(Expert):

    def __init__(self):
        super().__init__()
        self.calls, self.scale = 0, 1.0

    def forward(self, x):
        self.calls += 1
        self.scale = 1.0 + self.calls % 3
        return super().forward(x)


class Appending(nn.Linear):

    def __init__(self, shared):
        super().__init__(6, 6)
        self.shared = shared

    def forward(self, x):
        output = super().forward(x)
        self.shared.append(output.square().mean())
        return output


class Mixture(Net):
    """Each of its layers is an expert; the sum of what they left is a loss."""
    kind = Expert

    def __init__(self):
        super().__init__()
        for name in 'atc':
            setattr(self, name, self.kind())

    def forward(self, inputs, mode='tensor'):
        return {'loss_main': self.run(inputs).square().mean(), 'loss_aux': self.balance()}

    def balance(self):
        return sum(layer.aux_loss for layer in (self.a, self.t, self.c))


class TakenAway(Mixture):
    """Reads each and leaves None."""

    def __init__(self):
        super().__init__()
        self.a.aux_loss = self.t.aux_loss = self.c.aux_loss = None

    def balance(self):
        total = super().balance()
        self.a.aux_loss = self.t.aux_loss = self.c.aux_loss = None
        return total


class Deleted(Mixture):

    def balance(self):
        total = super().balance()
        del self.a.aux_loss, self.t.aux_loss, self.c.aux_loss
        return total


class Scaled(Mixture):
    kind = Counting

    def balance(self):
        return self.a.aux_loss * self.a.scale + self.t.aux_loss * self.t.scale + self.c.aux_loss * self.c.scale


class InAList(Mixture):
    """All layers append to one list, which the model reads and empties."""

    def __init__(self):
        super().__init__()
        shared = []
        self.shared = shared
        for name in 'atc':
            setattr(self, name, Appending(shared))

    def balance(self):
        total = sum(self.shared)
        self.shared.clear()
        return total


class InADict(Mixture):

    class Keeping(Expert):

        def __init__(self):
            super().__init__()
            self.kept = {}

        def forward(self, x):
            output = super().forward(x)
            self.kept['a'] = (output, dict(mean=output.mean()))
            return output

    kind = Keeping

    def balance(self):
        return sum(layer.kept['a'][0].abs().mean() + layer.kept['a'][1]['mean'] for layer in (self.a, self.t, self.c))


class Twice(Mixture):
    """The first layer runs twice before the tap; each call's loss is added up in the model."""

    def forward(self, inputs, mode='tensor'):
        x = self.a(inputs)
        aux = self.a.aux_loss
        x = self.a(torch.tanh(x))
        aux = aux + 2 * self.a.aux_loss
        return {'loss_main': self.c(self.t(x)).square().mean(), 'loss_aux': aux + self.t.aux_loss + self.c.aux_loss}


@pytest.mark.parametrize('replay', [True, False], ids=['replay', 'rerun'])
@pytest.mark.parametrize('cls', [Mixture, TakenAway, Deleted, Scaled, InAList, InADict, Twice])
def test_the_rule_holds_where_layers_leave_something_in_attributes(cls, replay):
    assert_rule(cls, data, steps=3, replay=replay)


def test_after_a_step_they_are_what_the_clean_pass_left():
    models = [build(Scaled), build(Scaled, taps=dict(s=dict(module='t', step_size=0.5, strengths=(0.5, 1.0))))]
    for model in models:
        train(model, data, 3)
    for name in 'atc':
        stock, mine = (getattr(model, name) for model in models)
        assert torch.equal(stock.aux_loss, mine.aux_loss) and (stock.calls, stock.scale) == (mine.calls, mine.scale)


def test_a_step_that_sets_none_looks_at_none():
    model = build(type('Plain', (Net, ), dict(forward=lambda self, x, mode='tensor': {'loss': self.run(x).mean()})),
                  taps=dict(s=dict(module='t', step_size=0.1)))
    train(model, data, 2)
    assert model.afan.facts.attributes == frozenset()
