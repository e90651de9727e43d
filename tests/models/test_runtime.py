"""What a model keeps between steps: exact counts and shares, learned strengths, taps in their turn, its batch."""
from __future__ import annotations

import copy
import re
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import checkpoint as torch_checkpoint

from mmafan.config import AFANConfig, LearnStrengthsConfig
from mmafan.models import runtime
from mmafan.models.joined import WaitingSamples
from mmafan.models.losses import Term
from mmafan.models.norms import ModelNorms
from mmafan.models.runtime import AFANRuntime, Controls, LearnedStrengths, Meters
from mmafan.replay import Batch, Facts, PassKind, running_pass
from mmafan.replay.checkpointing import WAYS

from ..training import record_warnings


def test_the_share_of_skipped_samples_is_that_of_all_attacks_since_it_was_last_taken():
    meters = Meters()
    for skipped, samples in ((1, 4), (0, 4), (2, 8)):
        meters.count_samples('a', torch.tensor(skipped), samples)
    meters.count_samples('b', torch.tensor(0), 4)
    assert meters.pop_skipped_shares() == {'a': 3 / 16, 'b': 0}
    assert meters.pop_skipped_shares() == {}
    meters.count_samples('a', torch.tensor(1), 1)
    assert meters.pop_skipped_shares() == {'a': 1}


def test_the_share_of_steps_with_nothing_to_perturb_is_that_since_it_was_last_taken():
    meters = Meters()
    for _ in range(3):
        meters.count_idle('a', 'no rows')
    meters.count_idle('b', 'not reached')
    assert meters.pop_idle_shares(6) == {'a_no_rows_share': 0.5, 'b_not_reached_share': 1 / 6}
    meters.count_idle('a', 'no rows')
    assert meters.pop_idle_shares(2) == {'a_no_rows_share': 0.5, 'b_not_reached_share': 0}
    meters.count_idle('a', 'no rows')
    assert meters.pop_idle_shares(0) == {'a_no_rows_share': 1, 'b_not_reached_share': 0}


def test_no_more_than_all_steps_have_nothing_to_perturb_and_no_samples_give_no_share():
    meters = Meters()
    for _ in range(3):
        meters.count_idle('a', 'no rows')  # by several passes of a step
    meters.count_samples('a', torch.tensor(0), 0)
    assert meters.pop_idle_shares(2) == {'a_no_rows_share': 1} and meters.pop_skipped_shares() == {'a': 0}


# ---------------------------------------------------------------- learned strengths
def learned_of(*names, **fields):
    return LearnedStrengths(LearnStrengthsConfig(**fields), names)


def test_learned_factors_follow_sgd_with_a_penalty_on_the_plane_of_sum_one():
    """Against the update in float64; ``b`` overflows in the second step, ``c`` has no gradient in the first."""
    lr, momentum, l1 = 0.1, 0.5, 0.25
    learned = learned_of(*'abc', lr=lr, momentum=momentum, l1=l1)
    values, momenta = np.array([1.4, -0.4, 0.0]), np.array([0.2, 0.0, -0.1])
    learned.load_state_dict(dict(factors=dict(zip('abc', values), other=7.0), momenta=dict(zip('abc', momenta))))
    for scale, gradients in ((1.0, (0.3, -0.2, None)), (4.0, (-0.8, float('inf'), 1.2)), (None, (0.1, 0.2, 0.3))):
        for name, gradient in zip('abc', gradients):
            learned.factors[name].grad = None if gradient is None else torch.tensor(gradient)
        learned.step() if scale is None else learned.step(torch.tensor(scale))
        own = np.array([0.0 if gradient is None else gradient for gradient in gradients]) / (scale or 1.0)
        for k in np.flatnonzero(np.isfinite(own)):
            momenta[k] = momentum * momenta[k] + own[k] + l1 * np.sign(values[k])
            values[k] -= lr * momenta[k]
        values += (1 - values.sum()) / 3
        assert all(factor.grad is None and factor.requires_grad for factor in learned.factors.values())
        state = learned.state_dict()
        assert state.keys() == {'factors', 'momenta'}
        assert state['factors'] == pytest.approx(dict(zip('abc', values)), abs=1e-6)
        assert state['momenta'] == pytest.approx(dict(zip('abc', momenta)), abs=1e-6)


def test_processes_update_by_the_mean_of_their_gradients(monkeypatch):
    """The other process has gradients of 3, whatever this one has; there is no penalty."""
    learned = learned_of(*'ab', lr=1.0, momentum=0, l1=0)
    monkeypatch.setattr(runtime, 'all_reduce', lambda tensor, op: {'mean': tensor.add_(3).div_(2)}[op])
    learned.factors['a'].grad = torch.tensor(2.0)
    learned.step(grad_scale=2.0)
    assert learned.state_dict()['momenta'] == dict(a=2.0, b=1.5)
    assert learned.state_dict()['factors'] == dict(a=0.25, b=0.75)


def test_learned_factors_begin_alike_and_are_leaves_where_their_taps_are():
    learned = learned_of(*'abcd')
    assert learned.state_dict() == dict(factors=dict.fromkeys('abcd', 0.25), momenta=dict.fromkeys('abcd', 0.0))
    assert learned_of(*'ab', init=1).state_dict()['factors'] == dict(a=1.0, b=1.0)
    first = learned.factor_on('a', torch.device('cpu'))
    assert first is learned.factors['a'] and first.is_leaf and first.requires_grad and first.dtype == torch.float32
    other = learned.factor_on('b', torch.device('meta'))
    assert other is learned.factor_on('b', torch.device('meta')) is learned.factors['b']
    assert other.is_leaf and other.requires_grad and other.is_meta and learned._momenta['b'].is_meta
    assert not learned.factors['a'].is_meta and not learned._momenta['a'].is_meta


def test_a_state_may_lack_taps():
    learned = learned_of(*'ab')
    learned.load_state_dict(dict(factors=dict(a=2.0), momenta=dict(b=3.0)))
    assert learned.state_dict() == dict(factors=dict(a=2.0, b=0.5), momenta=dict(a=0.0, b=3.0))


@pytest.mark.parametrize('names', ['', 'a'])
def test_learned_factors_need_two_taps(names):
    with pytest.raises(ValueError, match=r'^afan.learn_strengths needs at least two taps with a weight above 0, '
                                         rf'because the learned factors sum to 1, got {re.escape(str(list(names)))}$'):
        learned_of(*names)


# ---------------------------------------------------------------- the state of a model
def state_of(taps=None, **afan):
    """The state of a model without norms."""
    taps = {name: dict(module=name, step_size=0.1, **fields) for name, fields in (taps or dict(a={})).items()}
    return AFANRuntime(AFANConfig.from_dict(dict(taps=taps, **afan)), ModelNorms(nn.Module(), 'shared'))


def test_without_a_hook_a_new_model_has_its_full_strength_and_measures_in_each_step():
    controls = Controls()
    assert vars(controls) == dict(strength_scale=1.0, iteration=0, measure=True, hooked=False, loss_scaler=None)
    controls.loss_scaler, controls.iteration = threading.Lock(), 5  # which cannot be copied
    assert vars(copy.deepcopy(controls)) == dict(vars(Controls()), iteration=5)
    state = state_of()
    assert isinstance(state.waiting, WaitingSamples)
    assert vars(state.controls) == vars(Controls()) and vars(state.meters) == dict(
        diagnostics={}, num_skipped={}, num_samples={}, num_idle={}, frozen=False, stepped=False)
    known = {name: vars(state)[name] for name in ('facts', 'num_waits', 'learned', 'batch_changes', 'per_sample',
                                                  'has_own_sum', 'batch_is_lost', 'inside', 'wrapped')}
    assert known == dict(facts=None, num_waits=0, learned=None, batch_changes=None, per_sample=None,
                         has_own_sum=False, batch_is_lost=False, inside=False, wrapped=False)


def test_the_factors_of_taps_without_a_weight_are_not_learned():
    state = state_of(dict(a={}, off=dict(weight=0), b={}), learn_strengths={})
    assert state.learned.state_dict()['factors'] == dict(a=0.5, b=0.5)


@pytest.mark.parametrize('scale, on', [(1.0, True), (1e-3, True), (0.0, False), (-1.0, False)])
def test_a_tap_takes_part_in_its_turn_while_a_fan_is_on(scale, on):
    state = state_of(dict(a={}, off=dict(weight=0), b=dict(every=2), c=dict(every=3)))
    state.controls.strength_scale = scale
    for iteration, names in enumerate(('abc', 'a', 'ab', 'ac', 'ab', 'a', 'abc')):
        state.controls.iteration = iteration
        assert list(state.taps) == (list(names) if on else []) and state.is_on is on
    assert state.taps == {name: state.config.taps[name] for name in state.taps}


def test_a_fan_is_on_between_the_turns_of_its_taps_and_off_without_any():
    state = state_of(dict(a=dict(every=2), b=dict(weight=0)))
    state.controls.iteration = 1
    assert state.is_on and not state.taps
    assert not state_of(dict(b=dict(weight=0))).is_on


def test_each_sentence_is_a_warning_once_for_each_model():
    first, second = state_of(), state_of()
    with record_warnings() as warnings:
        for text in ('one', 'two', 'one'):
            first.say_once(text)
        second.say_once('one')
    assert warnings == ['one', 'two', 'one']


def test_passes_are_marked_as_long_as_the_outermost_runs_and_checkpointing_with_them():
    state, model = state_of(), nn.Module()
    stock = {way: getattr(torch_checkpoint, way) for way in WAYS}

    def found():
        return {way: getattr(torch_checkpoint, way) for way in WAYS}

    with state.entered(model):
        outer = found()
        assert state.inside and len({id(way) for way in outer.values()}) == 1
        regions = outer[WAYS[0]]
        assert regions.model is model and regions.places is None and regions.protects is True
        with state.entered(model):
            assert state.inside and found() == outer
        assert state.inside and found() == outer
    assert not state.inside and found() == stock
    state.facts, state.controls.strength_scale = Facts(changed_state=()), 0.0
    with pytest.raises(KeyError), state.entered(model):
        regions = found()[WAYS[1]]
        raise KeyError
    assert not state.inside and found() == stock
    assert regions.places == () and regions.protects is False


# ---------------------------------------------------------------- a pass
def run(state, function, batch, kind=PassKind.CLEAN):
    with running_pass(kind):
        return state.run(nn.Module(), batch, function)


def test_only_a_pass_of_a_forward_that_changes_its_batch_gets_a_copy():
    """What the first forward changes is known from then on; the caller's batch is as it was."""

    def changes(inputs, target, note):
        inside.append(state.inside)
        seen.append((inputs, target))
        target.mul_(2)

    state, seen, inside = state_of(), [], []
    inputs, target = torch.ones(2, 3), torch.ones(2)
    for _ in range(2):
        run(state, changes, Batch((inputs, target), dict(note='x'), changes))
        assert state.batch_changes == {'rest'} and state.batch_is_lost is False
    assert inside == [True, True] and not state.inside and torch.equal(target, torch.ones(2))
    assert seen[0][0] is not inputs and seen[1][0] is inputs and seen[1][1] is not target
    assert [own[1].tolist() for own in seen] == [[2, 2], [2, 2]]


@pytest.mark.parametrize('way', ['dict', 'tensor'])
@pytest.mark.parametrize('kind', [PassKind.CLEAN, PassKind.ADVERSARIAL])
def test_a_change_that_comes_late_is_put_back_or_the_batch_is_lost(kind, way, monkeypatch):

    def changes(inputs, target):
        if state.controls.iteration:
            target.update(size=5) if way == 'dict' else target['size'].add_(1)

    state = state_of()
    target = dict(size=3 if way == 'dict' else torch.tensor(3))
    batch = Batch((torch.ones(2, 3), target), {}, changes)
    with record_warnings() as warnings:
        for _ in range(2):
            run(state, changes, batch)
            assert state.batch_changes == frozenset() and not state.batch_is_lost and not warnings
        state.controls.iteration = 1
        if kind is not PassKind.CLEAN:
            monkeypatch.setattr(runtime, 'Contents', None)  # nothing is noted: that takes its time
        run(state, changes, batch, kind)
        if kind is not PassKind.CLEAN:  # its own batch is that of the clean pass, which has been looked at
            assert state.batch_changes == frozenset() and not state.batch_is_lost and not warnings
            return
        assert state.batch_is_lost is (way == 'tensor') and state.batch_changes == {'inputs', 'rest'}
        assert int(target['size']) == (3 if way == 'dict' else 4)
        lost = 'this step has no adversarial pass, and ' if way == 'tensor' else ''
        assert warnings == ['the forward changes its batch in place in this step, which it did not in the first one: '
                            f'{lost}from now on every pass gets a copy']
        before = int(target['size'])
        run(state, changes, batch, PassKind.ADVERSARIAL)
        assert state.batch_is_lost is (way == 'tensor')  # as the clean pass has left it
        for _ in range(2):
            run(state, changes, batch)
        assert not state.batch_is_lost and state.batch_changes == {'inputs', 'rest'}
        assert int(target['size']) == before and len(warnings) == 1


def test_losses_remember_their_names_where_the_model_sums_them_up_itself():
    losses = dict(loss=torch.ones(()), acc=torch.ones(()))
    for own_sum, given, kept in ((True, losses, True), (False, losses, False), (True, torch.ones(()), False)):
        state = state_of()
        state.has_own_sum = own_sum
        found = run(state, lambda inputs: given, Batch((torch.ones(2), ), {}, lambda inputs: None))
        assert (found is not given) is kept
        assert not kept or [(type(name), name.counts) for name in found] == [(Term, True), (Term, False)]
