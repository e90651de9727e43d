"""Which losses and which parameters depend on a tap, for small graphs whose answer is known."""
from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmafan.models.dependence import decide_losses, named_parameters, own_losses
from mmafan.replay import INPUTS, Facts, Recording


class Graph(nn.Module):
    """One number for each parameter: ``early`` comes before the tap alone, ``late`` after it, ``tied`` on both sides.

    ``between`` is used between two calls of the tap.
    """

    def __init__(self):
        super().__init__()
        for name in ('early', 'late', 'tied', 'between', 'unused'):
            setattr(self, name, nn.Parameter(torch.tensor(1.5)))
        self.tap = nn.Linear(1, 1)

    def feature(self, times=1):
        x = self.early * self.tied * torch.ones(2, 1)
        x = self.tap(x)
        for _ in range(times - 1):
            x = self.tap(x * self.between)
        return x


def recorded(make_losses, facts=Facts(), times=1, module='tap'):
    """Record a pass of :class:`Graph`; ``make_losses`` takes the model and the feature."""
    model = Graph()
    recording = Recording(model, dict(t=SimpleNamespace(module=module, at='output')), 2, facts)
    with recording:
        if module == INPUTS:
            losses = make_losses(model, recording.record_inputs(torch.ones(2, 1)))
        else:
            losses = make_losses(model, model.feature(times) if times else torch.ones(2, 1))
    return recording, losses


def standard(model, feature):
    return dict(loss_own=(feature * model.late * model.tied).sum(), loss_early=model.early * 2,
                loss_constant=feature.new_ones(()),
                accuracy=feature.sum(), loss_list=[feature.detach().sum(), feature.sum()])


def test_the_losses_and_parameters_of_a_tap():
    facts = Facts()
    recording, losses = recorded(standard)
    found = decide_losses(recording, facts, losses)
    assert found.own_losses == dict(t={'loss_own', 'loss_list'})
    assert found.other_losses == dict(t={'loss_early'})  # a constant may depend on it another time
    assert found.num_calls == dict(t=1) and found.held == {}
    assert found.before == dict(t={'early', 'tap.weight', 'tap.bias'})
    assert found.until == dict(t={'tied'})
    assert facts == Facts()


def test_what_is_used_between_two_calls_of_the_tap_is_no_constant_until_the_first():
    recording, losses = recorded(standard, times=2)
    found = decide_losses(recording, Facts(), losses)
    assert found.num_calls == dict(t=2)
    assert found.before == dict(t={'early'})
    assert found.until == dict(t={'tied', 'tap.weight', 'tap.bias'})


def test_the_losses_that_are_new_are_added():
    """What was found of the others stays, and so do the parameters."""
    known = Facts(own_losses=dict(t=frozenset({'loss_own', 'loss_gone'})),
                  other_losses=dict(t=frozenset({'loss_early'})), num_calls=dict(t=1),
                  before=dict(t='x'), until=dict(t='y'), held=dict(t='z'))
    recording, losses = recorded(standard)
    losses['loss_new'] = recording.model.early * 3
    found = decide_losses(recording, known, losses)
    assert found.own_losses == dict(t={'loss_own', 'loss_gone', 'loss_list'})
    assert found.other_losses == dict(t={'loss_early', 'loss_new'})
    assert (found.before, found.until, found.held) == (dict(t='x'), dict(t='y'), dict(t='z'))
    assert found.num_calls == dict(t=1)


def test_what_is_known_of_a_loss_is_not_looked_for_again():
    known = Facts(own_losses=dict(t=frozenset({'loss_early'})), num_calls=dict(t=1),
                  other_losses=dict(t=frozenset({'loss_own', 'loss_list'})))
    recording, losses = recorded(standard)
    assert decide_losses(recording, known, losses) == known


@pytest.mark.parametrize('before, times', [(1, 2), (2, 1), (3, 1)])
def test_all_is_found_anew_where_the_tap_ran_another_number_of_times(before, times):
    known = Facts(own_losses=dict(t=frozenset({'loss_early', 'loss_gone'}), u='u'), num_calls=dict(t=before, u=before),
                  other_losses=dict(t=frozenset({'loss_own', 'loss_early', 'loss_absent'})), before=dict(t='x', u='u'),
                  until=dict(t='y', u='u'), held=dict(t='z', u='u'))
    recording, losses = recorded(standard, times=times)
    found, first = decide_losses(recording, known, losses), decide_losses(recording, Facts(), losses)
    assert found.own_losses == dict(t={'loss_own', 'loss_list'}, u='u')
    assert found.other_losses == dict(t={'loss_absent', 'loss_early'})
    assert (found.before, found.until) == (dict(first.before, u='u'), dict(first.until, u='u'))
    assert found.held == dict(u='u') and found.num_calls == dict(t=times, u=before)


@pytest.mark.parametrize('times, make_losses', [
    (0, lambda model, feature: dict(loss_early=model.early * 2)),
    (2, lambda model, feature: dict(loss_constant=feature.new_ones(()), accuracy=feature.sum()))], ids=[
    'not reached', 'constants'])
def test_a_pass_that_shows_nothing_of_a_tap_changes_nothing(times, make_losses):
    known = Facts(own_losses=dict(t=frozenset({'loss_own'})), num_calls=dict(t=1), held=dict(t='z'))
    recording, losses = recorded(make_losses, times=times)
    assert decide_losses(recording, known, losses) == known


def test_nothing_comes_before_the_inputs():
    recording, losses = recorded(
        lambda model, inputs: dict(loss_own=(inputs * model.late).sum(), loss_late=model.late * 2), module=INPUTS)
    found = decide_losses(recording, Facts(held=dict(t='z')), losses)
    assert (found.own_losses, found.other_losses) == (dict(t={'loss_own'}), dict(t={'loss_late'}))
    assert (found.before, found.until, found.held) == ({}, {}, dict(t='z')) and found.num_calls == dict(t=1)


def test_a_loss_depends_on_any_of_the_features():
    one, other = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    losses = dict(loss_one=one.sum(), loss_other=[other.sum()], loss_none=torch.ones(()), sum=one.sum() + other.sum())
    assert set(own_losses(losses, [one, other, torch.ones(2)])) == {'loss_one', 'loss_other'}
    assert set(own_losses(losses, [other])) == {'loss_other'}
    assert own_losses(losses, []) == {}


def test_parameters_have_the_names_of_the_model():
    model = Graph()
    recording = SimpleNamespace(model=model)
    assert named_parameters(recording, {id(model.early), id(model.tap.bias), -1}) == {'early', 'tap.bias'}
