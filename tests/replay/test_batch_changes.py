"""A copy of a batch that a forward has changed is told from one that it has not."""
from __future__ import annotations

import copy
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmafan.replay.batch_changes import differs

NAN = float('nan')


class Slots:
    __slots__ = ('x', )

    def __init__(self, x):
        self.x = x


def objects(*items):
    array = np.empty(len(items), object)
    array[:] = items
    return array


def through_data(tensor):
    tensor.data.add_(1)
    return tensor


SAME = dict(
    number=(1, 1), text=('a', 'a'), none=(None, None), tuple=((1, 2), (1, 2)), queue=(deque([1]), deque([1])),
    names=(dict(a=[1]), dict(a=[1])), set=({1}, {1}), frozenset=(frozenset([1]), frozenset([1])),
    slots=(Slots(1), Slots(1)), object=(SimpleNamespace(x=[1]), SimpleNamespace(x=[1])), dtype=(torch.int8, torch.int8),
    tensor=(torch.ones(2), torch.ones(2)), scalar=(torch.tensor(1), torch.tensor(1)),
    nan=(torch.tensor([NAN, 1.0]), torch.tensor([NAN, 1.0])), complex=(torch.tensor(1 + 1j), torch.tensor(1 + 1j)),
    sparse=(torch.eye(2).to_sparse(), torch.eye(2).to_sparse()),
    meta=(torch.zeros(2, device='meta'), torch.zeros(2, device='meta')),
    array=(np.arange(2), np.arange(2)), no_number=(np.array([NAN, 1.0]), np.array([NAN, 1.0])),
    complex_array=(np.array([NAN + 1j]), np.array([NAN + 1j])), words=(np.array(['a', 'b']), np.array(['a', 'b'])),
    objects=(objects([1], torch.ones(1), Slots(1)), objects([1], torch.ones(1), Slots(1))))
CHANGED = dict(
    number=(1, 2), kind=(1, 1.0), text=('a', 'b'), gone=('a', None), sequence=([1], (1, )), longer=([1], [1, 1]),
    shorter=([1], []), queue=(deque([1]), deque([2])), last=([1, 2, 3], [1, 2, 4]), first=([1, 2, 3], [0, 2, 3]),
    key=(dict(a=1), dict(b=1)), order=(dict(a=1, b=2), dict(b=2, a=1)), item=(dict(a=1, b=[2]), dict(a=1, b=[3])),
    set=({1}, {2}), frozenset=(frozenset([1]), frozenset()), slots=(Slots(1), Slots(2)), dtype=(torch.int8, torch.int),
    attribute=(SimpleNamespace(x=1), SimpleNamespace(x=2)), more=(SimpleNamespace(x=1), SimpleNamespace(x=1, y=1)),
    emptied=(SimpleNamespace(x=1), SimpleNamespace()), values=(torch.tensor([1, 2]), torch.tensor([1, 3])),
    shape=(torch.ones(2, 1), torch.ones(1, 2)), rank=(torch.ones(2), torch.ones(2, 1)),
    tensor_dtype=(torch.ones(2), torch.ones(2).double()), sparse=(torch.eye(2).to_sparse(), torch.eye(3).to_sparse()),
    meta=(torch.zeros(2, device='meta'), torch.zeros(3, device='meta')),
    to_nan=(torch.tensor([1.0]), torch.tensor([NAN])), from_nan=(torch.tensor([NAN, 0]), torch.tensor([1.0, 0])),
    through_data=(torch.ones(1), through_data(torch.ones(1))),
    array=(np.arange(2), np.array([0, 2])), array_shape=(np.ones((2, 1)), np.ones((1, 2))),
    array_rank=(np.ones(2), np.ones(1)),
    array_dtype=(np.ones(2), np.ones(2, np.float32)), array_to_nan=(np.array([1.0]), np.array([NAN])),
    words=(np.array(['a', 'b']), np.array(['a', 'c'])), objects=(objects([1], [2]), objects([1], [3])),
    more_objects=(objects([1]), objects([1], [2])), objects_shape=(objects([1], [2]), objects([1], [2]).reshape(2, 1)),
    no_objects=(objects(1, 2), np.array([1, 2])))


def wrap(value):
    return dict(deep=[SimpleNamespace(kept=(value, 'x'))])


@pytest.mark.parametrize('kind', SAME)
def test_a_copy_that_holds_the_same_is_unchanged(kind):
    before, after = SAME[kind]
    assert differs(before, after) is False and differs(wrap(before), wrap(after)) is False
    assert differs(after, after) is False


@pytest.mark.parametrize('kind', CHANGED)
def test_a_copy_that_holds_something_else_is_changed(kind):
    before, after = CHANGED[kind]
    assert differs(before, after) is True and differs(wrap(before), wrap(after)) is True
    assert differs(after, copy.deepcopy(before)) is True


def test_a_tensor_that_was_written_to_is_changed_whatever_it_holds():
    written_to = torch.ones(1).add_(0)
    assert differs(torch.ones(1), written_to) and not differs(written_to, torch.ones(1))


@pytest.mark.parametrize('number', range(1, 9))
def test_the_last_of_several_arrays_of_objects_is_compared_too(number):
    before, after = ([objects(1, 2) for _ in range(number)] for _ in range(2))
    assert not differs(before, after)
    after[-1][1] = 3
    assert differs(before, after)


def test_a_value_that_leads_back_to_itself_is_compared_once():
    before = SimpleNamespace(x=[1])
    before.itself, before.x = before, [before.x, before]
    after = copy.deepcopy(before)
    assert not differs(before, after)
    after.x[0].append(2)
    assert differs(before, after)


def test_what_is_no_container_is_compared_by_its_value():

    class Version(str):
        """A text of a kind of its own."""

    assert not differs(Version('a'), Version('a')) and differs(Version('a'), Version('b'))
    first, second = object(), object()
    assert differs(first, second) and not differs(first, first)
