"""What is known of a model: nothing at first, and with another step everything that either of the two has shown."""
from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from mmafan.replay import Facts, WatchedCall

NOTHING = dict(calls=(), hooked=None, changed_in_place=None, changed_state=None, attributes=None, idle_calls=None,
               other_losses={}, own_losses={}, before={}, held={}, until={}, num_calls={}, proven=frozenset())
SETS = ('hooked', 'changed_in_place', 'attributes', 'proven')
MAPPINGS = ('idle_calls', 'other_losses', 'own_losses', 'before', 'until', 'num_calls')


def test_nothing_is_known_at_first_and_what_a_step_shows_stays():
    facts = Facts()
    assert vars(facts) == NOTHING
    for name in NOTHING:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(facts, name, None)


def test_a_watched_call_is_known_by_its_object_and_method():
    owner = SimpleNamespace()
    call = WatchedCall(owner, 'loss')
    assert call.key == WatchedCall(owner, 'loss', paired=True, per_sample=True).key
    assert call.key != WatchedCall(owner, 'predict').key and call.key != WatchedCall(SimpleNamespace(), 'loss').key
    assert (call.paired, call.per_sample) == (False, False)


@pytest.mark.parametrize('name', SETS)
def test_sets_are_united(name):
    one, other, none = frozenset('ab'), frozenset('bc'), frozenset()
    unknown = Facts()
    for first, second, united in ((one, other, one | other), (one, none, one), (none, other, other)):
        assert getattr(Facts(**{name: first}).joined(Facts(**{name: second})), name) == united
    assert getattr(Facts(**{name: one}).joined(unknown), name) == one
    assert getattr(unknown.joined(Facts(**{name: other})), name) == other


def test_places_of_state_are_united_too():
    for one, other, united in ((None, None, ''), (None, 'ab', 'ab'), ('ab', None, 'ab'), ('ab', 'bc', 'abc')):
        found = Facts(changed_state=one and tuple(one)).joined(Facts(changed_state=other and tuple(other)))
        assert sorted(found.changed_state) == list(united)


@pytest.mark.parametrize('name', MAPPINGS)
def test_of_a_tap_the_later_step_counts_and_of_a_tap_it_lacks_the_earlier_one(name):
    joined = Facts(**{name: dict(a=1, b=2)}).joined(Facts(**{name: dict(b=3, c=4)}))
    assert getattr(joined, name) == dict(a=1, b=3, c=4)
    assert getattr(Facts(**{name: dict(a=1)}).joined(Facts()), name) == dict(a=1)
    assert getattr(Facts().joined(Facts(**{name: dict(a=1)})), name) == dict(a=1)


def test_what_a_pass_comes_to_is_forgotten_where_a_later_step_has_looked_for_it_anew():
    """``held`` names some of ``before``, and counts as long as that does."""
    known = Facts(held=dict(a='ab', b='cd', c='e'), before=dict(a='ab'))
    joined = known.joined(Facts(held=dict(b='d'), before=dict(b='d', c='e')))
    assert joined.held == dict(a='ab', b='d')


def test_the_calls_are_those_of_the_later_step():
    calls = (WatchedCall(None, 'a'), ), (WatchedCall(None, 'b'), )
    assert Facts(calls[0]).joined(Facts(calls[1])).calls == calls[1]
