"""Values of several passes put together, and told apart again; which modules are stopped at."""
from __future__ import annotations

import weakref
from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmafan.layers import adopt_norms
from mmafan.replay.joining import Joins, Meetings, alike
from mmafan.replay.state import Unjoinable

Pair = namedtuple('Pair', 'left right')


def test_values_of_every_structure_are_joined_and_told_apart():
    shared = torch.ones(2, 5)  # of all passes, no rows of any

    def value(count):
        rows = torch.arange(3. * count).view(count, 3)
        return Pair(OrderedDict(b=rows, a='x'), [(rows + 1, float('0.5'), None), shared])  # equal, not the same

    joins = Joins()
    joined, rows = joins.join([value(2), value(1), value(2)])
    assert rows == (2, 1, 2) and type(joined) is Pair and type(joined.left) is OrderedDict
    assert list(joined.left) == ['b', 'a'] and joined.left['a'] == 'x'
    assert type(joined.right) is list and type(joined.right[0]) is tuple and joined.right[0][1:] == (0.5, None)
    assert joined.right[1] is shared
    assert torch.equal(joined.left['b'], torch.cat([value(n).left['b'] for n in (2, 1, 2)]))
    parts = joins.split(joined._replace(right=[joined.right[0], torch.ones(7)]), rows)
    for part, count in zip(parts, rows):
        assert type(part) is Pair and torch.equal(part.left['b'], value(count).left['b']) and part.left['a'] == 'x'
        assert torch.equal(part.right[0][0], value(count).right[0][0]) and part.right[1].tolist() == [1] * 7


def test_several_rows_for_each_sample_and_none_are_told_apart_as_views():
    whole, none, constant = torch.arange(6.), torch.ones(0, 2, requires_grad=True), torch.ones(())
    parts = Joins().split((whole, none, constant), (2, 1))
    assert [part[0].tolist() for part in parts] == [[0, 1, 2, 3], [4, 5]]
    assert [part[1].shape for part in parts] == [(0, 2), (0, 2)]
    assert all(part[2] is constant for part in parts)
    parts[1][0].add_(10)
    assert whole.tolist() == [0, 1, 2, 3, 14, 15]


@pytest.mark.parametrize('values', [
    (nn.Parameter(torch.zeros(2, 3)), torch.zeros(1, 3)), (torch.zeros(2, 3), torch.zeros(1, 3).double()),
    (torch.zeros(2).long(), torch.zeros(1).long())], ids=['parameter', 'precision', 'integers'])
def test_tensors_of_one_form_are_joined(values):
    joined, rows = Joins().join(values)
    assert rows == (2, 1) and torch.equal(joined, torch.cat(values))


def test_what_was_joined_is_joined_once_and_not_kept_beyond_its_parts():
    joins, parts = Joins(), [torch.zeros(2, 3), torch.zeros(1, 3)]
    whole, _ = joins.join(parts)
    assert joins.join(parts)[0] is whole
    assert joins.join(parts[::-1])[0] is not whole
    gone = weakref.ref(whole)
    del whole
    assert gone() is not None
    parts.pop()
    assert gone() is None


def test_what_was_together_is_not_copied():
    joins = Joins()
    whole, sizes = joins.join([torch.zeros(2, 3), torch.zeros(1, 3)])
    parts = joins.split(whole, sizes)
    assert joins.join(parts)[0] is whole
    parts[0].add_(1)  # now they are others
    again, _ = joins.join(parts)
    assert again is not whole and torch.equal(again, torch.cat(parts))


@pytest.mark.parametrize('values', [
    (torch.zeros(2, 3), torch.zeros(2, 4)), (torch.zeros(2), torch.zeros(2).long()), (torch.zeros(()), torch.ones(())),
    ((torch.zeros(2), 1), (torch.zeros(2), 2)), ([torch.zeros(2)], [torch.zeros(2)] * 2), (1, 1),
    ((torch.zeros(2), SimpleNamespace()), (torch.zeros(2), SimpleNamespace())),
    ([torch.zeros(2), torch.zeros(4)], [torch.zeros(2), torch.zeros(3)]),
    (dict(a=torch.zeros(2)), dict(b=torch.zeros(2))), ([torch.zeros(2)], (torch.zeros(2), )),
    (torch.zeros(2, 3), torch.zeros(2, 3, device='meta')), (torch.zeros(2).int(), torch.zeros(2).long()),
    (torch.zeros(2).long(), torch.zeros(2)), (torch.zeros(0, 3), torch.zeros(0, 3)), (torch.zeros(2), None),
    ((torch.zeros(2), 1), (torch.zeros(2), 1.0)), ((torch.zeros(2), 'a'), (torch.zeros(2), 'b')), ([], []),
], ids=str)
def test_what_does_not_fit_is_refused(values):
    with pytest.raises(Unjoinable):
        Joins().join(values)


def test_a_result_of_all_passes_is_refused():
    with pytest.raises(Unjoinable):
        Joins().split(torch.ones((), requires_grad=True), (1, 1))


def test_alike_looks_at_every_tensor():
    assert alike((torch.ones(2), torch.arange(2)), (torch.ones(2), torch.arange(2)), 1e-3)
    assert not alike((torch.ones(2), torch.arange(2)), (torch.ones(2), torch.arange(2) + 1), 1e-3)
    assert not alike([torch.ones(2)], [torch.ones(3)], 1e-3)
    assert not alike([torch.ones(2)], [torch.ones(2)] * 2 + [torch.ones(1)], 1e-3)
    assert not alike(torch.tensor([10 ** 6]), torch.tensor([10 ** 6 + 1]), 1e-3)
    assert alike(torch.ones(2).half(), torch.ones(2), 1e-3) and alike(torch.ones(0), torch.ones(0), 1e-3)


@pytest.mark.parametrize('limit', [torch.nan, torch.inf, -torch.inf])
def test_alike_takes_no_measure_from_what_is_not_finite(limit):
    one = torch.tensor([limit, 1e-3])
    assert alike(one, torch.tensor([limit, 1.0005e-3]), 1e-3)
    assert not alike(one, torch.tensor([limit, 1.002e-3]), 1e-3)
    assert not alike(one, torch.tensor([1.0, 1e-3]), 1e-3)


def test_nothing_is_alike_what_is_nearly_nothing():
    assert alike(torch.zeros(2), torch.full((2, ), 5e-10), 1e-3)
    assert not alike(torch.zeros(2), torch.full((2, ), 2e-9), 1e-3)


@pytest.mark.parametrize('size', [1e-3, 1.0, 1e3])
def test_alike_is_relative_to_the_values(size):
    one = size * torch.tensor([1.0, -0.5])
    assert alike(one, one * 1.0005, 1e-3) and not alike(one, one * 1.002, 1e-3)


def model():
    made = nn.Module()
    made.data_preprocessor = nn.Flatten()
    made.stages = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))])
    made.head = nn.Linear(4, 2)
    adopt_norms(made, 'separate')  # with a norm inside of the norm
    return made


@pytest.mark.parametrize('joinable, undecided, expected', [
    ({}, [], ['stages.0', 'stages.0.0', 'stages.0.1', 'head']),
    ({'stages.0': False}, ['head'], ['stages.0.0', 'stages.0.1', 'head']),
    ({'stages.0': False, 'stages.0.1': True}, ['head'], ['stages.0.1', 'head'])], ids=['unknown', 'one', 'known'])
def test_what_may_join_is_stopped_at(joinable, undecided, expected):
    meetings, net = Meetings(), model()
    assert len(list(net.stages[0][1].children())) == 1
    meetings.joinable, meetings.undecided = joinable, dict.fromkeys(undecided)
    assert meetings.candidates(net) == [(name, net.get_submodule(name)) for name in expected]
