"""What layers leave in attributes is in a pass as if they ran, and afterwards what the clean pass left."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mmafan.replay.attributes import Attributes, leave
from mmafan.replay.batch import Chosen

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


# ---------------------------------------------------------------- the attributes by themselves
def tree():
    """A model with a part that holds parts, one whose name begins as that of the first, and a norm."""
    model = nn.Module()
    model.part, model.partner = nn.Sequential(nn.Identity(), nn.Identity()), nn.Identity()
    model.norm = nn.BatchNorm1d(2)
    model.part.items, model.part[0].count, model.part[1].kept, model.partner.seen = [1], 1, {'a': 1}, {1}
    model.partner.table = np.zeros(2)
    return model


def fill(model):
    """What a forward leaves, one thing of each kind; and what is no matter of attributes."""
    model.part.items.append(2)
    model.part[0].count = 2
    model.part[0].loss = torch.ones(3, requires_grad=True) * 2
    del model.part[1].kept
    model.partner.seen, model.partner.table = [3], np.ones(2)
    model.norm.note = 1
    model.eval()
    model.part.register_buffer('buffer', torch.zeros(1))


FILLED = {('part', 'items'), ('part.0', 'count'), ('part.0', 'loss'), ('part.1', 'kept'), ('partner', 'seen'),
          ('partner', 'table')}


def test_what_is_set_is_found_in_the_module_that_has_finished_and_the_rest_at_the_end():
    model = tree()
    attributes = Attributes(model, None)
    fill(model)
    assert attributes.places == set()
    attributes.look('part', model.part)
    attributes.look('norm', model.norm)
    assert attributes.places == {('part', 'items')}
    attributes.finish()
    assert attributes.places == FILLED
    model.part.more = model.part[0].more = 1
    attributes.finish()
    attributes.look('part', model.part)
    assert attributes.places == FILLED  # the pass is over


def test_what_is_equal_to_what_was_there_is_found_where_it_is_another_object():
    model = tree()
    model.part.tensor, model.partner.text = torch.zeros(1), 'a'
    attributes = Attributes(model, None)
    model.part.items = [1]  # holds the same
    model.part.tensor, model.part[1].kept = torch.zeros(1), {'a': 1.0}
    attributes.finish()
    assert attributes.places == {('part', 'tensor'), ('part.1', 'kept')}


def test_where_places_are_known_nothing_else_is_looked_at():
    model = tree()
    attributes = Attributes(model, frozenset([('part.0', 'count')]))
    fill(model)
    attributes.look('part', model.part)
    attributes.finish()
    assert attributes.places == {('part.0', 'count')}
    assert Attributes(model, frozenset()).places == set()


def test_a_module_has_left_what_is_in_itself_and_in_what_it_holds():
    model = tree()
    attributes = Attributes(model, None)
    fill(model)
    attributes.finish()
    left = {(one.module, one.name): one.value for one in attributes.left_by('part')}
    part = model.part
    assert set(left) == {(part, 'items'), (part[0], 'count'), (part[0], 'loss'), (part[1], 'kept')}
    assert left[part, 'items'] == [1, 2] and left[part, 'items'] is not part.items and left[part[0], 'count'] == 2
    loss = left[part[0], 'loss']
    assert torch.equal(loss, part[0].loss) and not loss.requires_grad
    assert {one.name for one in attributes.left_by('partner')} == {'seen', 'table'} and attributes.left_by('par') == []
    assert {one.name for one in attributes.left_by('part.0')} == {'count', 'loss'}


@pytest.mark.parametrize('known', [False, True])
def test_a_pass_finds_what_the_clean_one_found_and_leaves_what_it_left(known):
    model = tree()
    part, items = model.part, model.part.items
    attributes = Attributes(model, frozenset(FILLED) if known else None)
    fill(model)
    attributes.finish()
    loss, seen = part[0].loss, model.partner.seen
    for _ in range(2):
        with pytest.raises(KeyError), attributes.protected():
            assert part.items is items and items == [1] and part[0].count == 1 and not hasattr(part[0], 'loss')
            assert part[1].kept == {'a': 1} and model.partner.seen == {1} and model.partner.table.tolist() == [0, 0]
            items.append(5)
            part.items, part[0].count, part[0].loss = [6], 5, 5
            part[1].kept['b'] = 5
            model.partner.seen.add(5)
            raise KeyError
        assert part.items is items and items == [1, 2] and part[0].count == 2 and part[0].loss is loss
        assert not hasattr(part[1], 'kept') and model.partner.seen is seen and seen == [3]
        assert model.partner.table.tolist() == [1, 1]


def test_what_a_replayed_module_left_is_left_again_for_the_samples_of_a_pass():
    model = tree()
    attributes = Attributes(model, None)
    fill(model)
    attributes.finish()
    left = attributes.left_by('part')
    part, items = model.part, model.part.items
    for chosen, expected in ((None, [2, 2, 2]), (Chosen(torch.tensor([0, 2]), 3), [2, 2])):
        items.clear()
        part[0].count, part[0].loss, part[1].kept = 0, None, {}
        leave(left, chosen)
        assert part.items is items and items == [1, 2] and part[0].count == 2 and part[0].loss.tolist() == expected
        assert not hasattr(part[1], 'kept')
        items.append(3)
    assert [one.value for one in left if one.name == 'items'] == [[1, 2]]  # what was noted stays


def test_what_is_gathered_of_a_sharded_module_is_its_own_affair():
    model = tree()
    model.part._is_fsdp_managed_module, model.partner._is_fsdp_managed_module = True, False
    attributes = Attributes(model, None)
    model.part.gathered = model.partner.kept = torch.zeros(1)
    model.part.count = 1
    attributes.finish()
    assert attributes.places == {('part', 'count'), ('partner', 'kept')}
