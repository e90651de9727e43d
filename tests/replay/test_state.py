"""Which pass is running, and what is put back after it."""
from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from mmafan.replay.state import PassKind, PassState, Patches, current_pass, passes_of, replaced, running_pass

OUTSIDE = PassState(PassKind.CLEAN, 'shared', (), False)


def test_outside_of_any_pass_it_is_a_clean_one():
    assert current_pass() == PassState() == OUTSIDE


def test_a_pass_is_running_inside_alone_and_its_state_is_what_was_asked_for():
    groups = ((2, PassKind.CLEAN), (3, PassKind.ADVERSARIAL))
    with running_pass(PassKind.JOINED, 'frozen', groups, True):
        assert current_pass() == PassState(PassKind.JOINED, 'frozen', groups, True)
        with running_pass(PassKind.ATTACK):
            assert current_pass() == PassState(PassKind.ATTACK, 'shared', (), False)
        assert current_pass().kind is PassKind.JOINED
    assert current_pass() == OUTSIDE
    with pytest.raises(KeyError), running_pass(PassKind.CHECK, before_tap=True):
        assert current_pass().before_tap and current_pass().groups == ()
        raise KeyError
    assert current_pass() == OUTSIDE


def test_the_state_of_a_pass_cannot_be_changed_under_those_that_have_asked_for_it():
    with running_pass(PassKind.ATTACK), pytest.raises(dataclasses.FrozenInstanceError):
        current_pass().kind = PassKind.CLEAN
    assert current_pass().kind is PassKind.CLEAN


def test_two_forwards_take_turns_and_each_finds_its_own_passes():
    own = []
    with running_pass(PassKind.CLEAN, 'batch'):
        with passes_of(own):
            assert current_pass() == OUTSIDE  # it has begun none yet
            begun = running_pass(PassKind.ATTACK, 'frozen')
            begun.__enter__()
        assert current_pass() == PassState(PassKind.CLEAN, 'batch')
        with passes_of(own):
            assert current_pass() == PassState(PassKind.ATTACK, 'frozen')
            begun.__exit__(None, None, None)
            assert current_pass() == OUTSIDE
        assert current_pass() == PassState(PassKind.CLEAN, 'batch')
    assert current_pass() == OUTSIDE and own == [OUTSIDE]


def test_a_forward_that_fails_in_its_turn_keeps_its_passes_and_disturbs_no_other():
    own = []
    with running_pass(PassKind.CHECK), pytest.raises(KeyError), passes_of(own):
        begun = running_pass(PassKind.ATTACK, 'batch')
        begun.__enter__()
        raise KeyError
    assert own == [OUTSIDE, PassState(PassKind.ATTACK, 'batch')] and current_pass() == OUTSIDE
    with passes_of(own):
        begun.__exit__(None, None, None)
    assert own == [OUTSIDE]


class Owner:

    def act(self):
        return 'stock'


def test_methods_are_put_back_last_first():
    owner, patches = Owner(), Patches()
    owner.other = mine = np.zeros(2)  # which has no truth value where it is compared
    for number in range(3):
        patches.set(owner, 'act', lambda number=number: number)
    patches.set(owner, 'other', None)
    assert owner.act() == 2 and owner.other is None
    patches.undo()
    patches.undo()  # nothing is left to do
    assert owner.act() == 'stock' and [*vars(owner)] == ['other'] and owner.other is mine


def test_methods_are_replaced_for_what_runs_inside():
    owner = SimpleNamespace(first=1, second=2)
    with replaced(owner, dict(first=3, third=4)):
        assert vars(owner) == dict(first=3, second=2, third=4)
    assert vars(owner) == dict(first=1, second=2)
    with pytest.raises(KeyError), replaced(owner, dict(first=3)):
        raise KeyError
    assert vars(owner) == dict(first=1, second=2)
