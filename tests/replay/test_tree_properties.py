"""Nested values of any kind are taken apart and put together again."""
from __future__ import annotations

import dataclasses
from collections import OrderedDict, deque, namedtuple
from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mmafan.replay.tree import map_tensors, tensors_of

Pair = namedtuple('Pair', 'first second')
LAYER = nn.Identity()


@dataclasses.dataclass
class Held:
    first: object
    second: object


@dataclasses.dataclass(frozen=True)
class Frozen:
    first: object


class Slots:
    __slots__ = ('first', )

    def __init__(self, first):
        self.first = first


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3), st.just(LAYER), st.just(len),
                   st.builds(lambda number: torch.full((2, ), float(number)), st.integers(0, 9)))


def containers(inner):
    return st.one_of(
        st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple), st.lists(inner, max_size=3).map(deque),
        st.dictionaries(st.text(max_size=2), inner, max_size=3),
        st.dictionaries(st.integers(0, 3), inner, max_size=3).map(OrderedDict),
        st.builds(Pair, inner, inner), st.builds(Held, inner, inner), st.builds(Frozen, inner), st.builds(Slots, inner),
        st.builds(lambda item: SimpleNamespace(a=item, b=[item]), inner))


TREES = st.recursive(LEAVES, containers, max_leaves=8)


def parts_of(value):
    """List what a container holds; None for others. Written anew, to compare with."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, (list, tuple, deque)):
        return list(enumerate(value))
    if isinstance(value, (Held, Frozen, SimpleNamespace)):
        return list(vars(value).items())
    return [('first', value.first)] if isinstance(value, Slots) else None


def assert_equal(one, other, seen, fresh):
    """Assert that two trees are equal, and that containers are others where they should be."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        seen.setdefault(id(one), other)
        assert torch.equal(one, other) and seen[id(one)] is other
        return
    parts = parts_of(one)
    if parts is None:
        assert one is other or one == other
        return
    assert not fresh or one is not other or one == ()
    others = parts_of(other)
    assert [name for name, _ in parts] == [name for name, _ in others]
    for (_, left), (_, right) in zip(parts, others):
        assert_equal(left, right, seen, fresh)


@given(TREES)
def test_a_copied_tree_is_equal_and_shares_no_container(tree):
    assert_equal(tree, map_tensors(torch.clone, tree), {}, fresh=True)


@given(TREES)
def test_a_tree_in_which_nothing_changes_may_stay_the_same(tree):
    assert map_tensors(lambda tensor: tensor, tree, keeps=True) is tree


@given(TREES)
def test_tensors_come_in_order_and_once_and_make_the_tree_again(tree):
    found, order = tensors_of(tree), []

    def walk(value):
        if isinstance(value, torch.Tensor):
            if not any(value is other for other in order):
                order.append(value)
            return
        for _, part in parts_of(value) or ():
            walk(part)

    walk(tree)
    assert list(map(id, found)) == list(map(id, order))
    emptied = map_tensors(lambda tensor: torch.zeros(0), tree)
    assert len(tensors_of(emptied)) == len(found)
    replacements = iter([tensor.clone() for tensor in found])
    assert_equal(tree, map_tensors(lambda _: next(replacements), emptied), {}, fresh=True)
