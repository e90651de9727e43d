"""What the first step refuses, each in one sentence, and what it finds out of a model that works."""
from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmafan.models import first_step
from mmafan.models.first_step import PATIENCE, all_agree, check_feature, check_losses
from mmafan.replay import PassKind, WatchedCall, current_pass
from mmafan.replay.tap import TapCapture

from ..rule import Plain, batch_of, by_part, gradients, ratios, tapped
from ..training import record_warnings


class Net(Plain):
    """Two losses after the tap, one of which is computed by a method, and two that do not depend on it."""

    def build(self):
        super().build()
        self.aux, self.side, self.tail = nn.Linear(4, 2), nn.Linear(4, 2), Method()

    def losses(self, inputs, data_samples):
        x = self.stem(inputs)
        y = self.mid(x)
        return dict(loss_a=self.classify(y, data_samples), loss_b=self.tail.compute(self.aux(y.mean((2, 3)))),
                    loss_c=self.side(x.mean((2, 3))).square().mean(), loss_d=y.new_ones(()), accuracy=y.mean())


class Method(nn.Module):

    def compute(self, x):
        return x.square().mean()


def refused(sentence, cls=Net, module='mid', batch=None, **fields):
    """Train a step that must be refused with a sentence, and leave no gradient."""
    model = tapped(cls, module, **fields)
    with pytest.raises(ValueError, match=f'^{sentence}$'):
        gradients(model, batch or batch_of())
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


# ---------------------------------------------------------------- losses and features
@pytest.mark.parametrize('losses, own_sum, sentence', [
    (dict(loss=torch.ones(()), accuracy=[torch.ones(1)]), False, None),
    ({}, False, None),
    ([torch.ones(())], False, "Model must return a dict of losses in mode='loss', got list"),
    (None, True, "Model must return a dict of losses in mode='loss', got NoneType"),
    (dict(loss=torch.ones(()), loss_b=2.5), False,
     "'loss_b' among the losses of Model must be a tensor or a list of tensors, got 2.5"),
    (dict(loss=[torch.ones(()), 1]), False,
     r"'loss' among the losses of Model must be a tensor or a list of tensors, got \[tensor\(1.\), 1\]"),
    (dict(loss=2.5), True, None),
])
def test_losses_are_a_dict_of_what_can_be_summed_up(losses, own_sum, sentence):
    model = type('Model', (), dict(afan=SimpleNamespace(has_own_sum=own_sum)))()
    if sentence is None:
        check_losses(model, losses)
    else:
        with pytest.raises(ValueError, match=f'^{sentence}$'):
            check_losses(model, losses)


def test_a_feature_needs_a_gradient():
    capture, tap = TapCapture(), SimpleNamespace(module='mid')
    sentence = (r"afan\.taps\.t\.module must name a module with a differentiable feature, but 'mid' never ran in the "
                r'forward pass of the loss; name a module between the trainable part of the network and its loss')
    with pytest.raises(ValueError, match=f'^{sentence}$'):
        check_feature('t', tap, capture)
    capture.take(torch.ones(2, 3, requires_grad=True) * 2)
    check_feature('t', tap, capture)


@pytest.mark.parametrize('fields, sentence', [
    (dict(losses=['loss_x']),
     r"afan\.taps\.t\.losses names 'loss_x', but the losses of the model are "
     r"\['loss_a', 'loss_b', 'loss_c', 'loss_d'\]"),
    (dict(losses=['loss_a', 'loss_c']),
     r"afan\.taps\.t\.losses names 'loss_c', which does not depend on the output of 'mid'; \['loss_a', 'loss_b'\] do"),
    (dict(losses=['loss_[cd]']), r"afan\.taps\.t\.losses names 'loss_\[cd\]', which does not depend .*"),
    (dict(attack_losses=[['loss_a'], ['loss_c']]),
     r"afan\.taps\.t\.attack_losses names 'loss_c', which does not depend on the output of 'mid'; .*"),
    (dict(reinject=True, moments='group', num_groups=3), r'afan\.taps\.t\.num_groups .*'),
])
def test_fields_that_do_not_fit_the_model_are_refused(fields, sentence):
    refused(sentence, **fields)


def test_statistics_that_nobody_asks_for_need_not_exist():
    assert by_part(ratios(Net, tapped(Net, moments='group', num_groups=3), batch_of()))['head'] == 2


class Rows(Net):
    """The tap has two rows for each sample."""

    def losses(self, inputs, data_samples):
        y = self.mid(self.stem(inputs).repeat(2, 1, 1, 1))
        return dict(loss_a=self.classify(y, data_samples.repeat(2)))


def test_a_fraction_needs_rows_that_are_samples():
    refused(r"afan\.taps\.t\.fraction must be 1\.0 for 'mid', got 0\.5: its feature has \[8\] rows for the 4 samples "
            r'of the batch', Rows, fraction=0.5)
    assert by_part(ratios(Rows, tapped(Rows), batch_of())) == dict(stem=1, mid=1, head=2)


class Beside(Net):
    """The tap is part of no loss, or of one that sends it no gradient."""
    way = 'none'

    def losses(self, inputs, data_samples):
        x = self.stem(inputs)
        y = self.mid(x)
        losses = dict(loss_a=self.classify(x, data_samples))
        if self.way == 'blocked':
            losses['loss_b'] = Blocked.apply(self.aux(y.mean((2, 3)))).square().mean()
        return losses


class Blocked(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return None


def test_a_tap_that_no_loss_depends_on_is_refused(monkeypatch):
    refused(r"afan\.taps\.t\.module must name a module that the losses depend on, but \['loss_a'\] do not depend on "
            r"the output of 'mid'", Beside)
    monkeypatch.setattr(Beside, 'way', 'blocked')
    refused(r"afan\.taps\.t\.module must name a module that a gradient comes to, but none of \['loss_b'\] comes to the "
            r"output of 'mid'", Beside)


def test_checkpointing_that_takes_no_gradient_is_named_and_other_errors_are_left_alone(monkeypatch):

    def fail(*args, **kwargs):
        raise RuntimeError(words)

    monkeypatch.setattr(torch.autograd, 'grad', fail)
    words = 'Checkpointing is not compatible with .grad()'
    refused(r"afan\.taps\.t\.module must name a module with a differentiable feature, but 'mid' feeds reentrant "
            r"activation checkpointing that is not torch's \(fairscale's is\), .*; switch the checkpointing off")
    words = 'out of memory'
    with pytest.raises(RuntimeError, match='^out of memory$'):
        gradients(tapped(Net), batch_of())


# ---------------------------------------------------------------- what is found out
@pytest.mark.parametrize('fields, idle', [
    ({}, set()), (dict(losses=['loss_a']), {0}), (dict(losses=['loss_b']), set()),
    (dict(losses=['loss_a'], attack_losses=['loss_b']), set()), (dict(attack_losses=['loss_a']), set()),
], ids=str)
def test_the_methods_that_no_loss_of_the_tap_needs_are_idle(fields, idle):
    model = watched(tapped(Net, **fields))
    gradients(model, batch_of())
    facts = model.afan.facts
    assert facts.idle_calls == dict(t=idle) and facts.proven == {'t'} and facts.held == dict(t=frozenset())
    assert facts.own_losses == dict(t={'loss_a', 'loss_b'}) and facts.other_losses == dict(t={'loss_c'})


def watched(model):
    model.afan.codebase = SimpleNamespace(watched_calls=lambda m: [WatchedCall(m.tail, 'compute')],
                                          lacks_targets=lambda batch: False)
    return model


class Shared(Net):
    """The prefix hands a weight on, which a pass comes to although the prefix replays."""

    def losses(self, inputs, data_samples):
        x = self.stem(inputs)
        return dict(loss_a=self.classify(self.mid(x) * self.stem.bias.sum(), data_samples))


def test_parameters_on_both_sides_of_the_tap_are_not_before_it():
    model = tapped(Shared)
    gradients(model, batch_of())
    assert model.afan.facts.before['t'] == {'stem.weight', 'mid.weight', 'mid.bias'}
    assert model.afan.facts.held == dict(t=frozenset())


class Empty(Net):
    """The tap gets no row in some batches."""

    def losses(self, inputs, data_samples):
        x = self.stem(inputs)
        y = self.mid(x[inputs.mean((1, 2, 3)) > 100] if inputs[0, 0, 0, 0] > 1e3 else x)
        return dict(loss_a=self.classify(x, data_samples), loss_b=self.aux(y.mean((2, 3))).sum())


def emptied():
    batch = batch_of()
    batch['inputs'][0, 0, 0, 0] = 1e4
    batch['inputs'] -= batch['inputs'].mean((1, 2, 3), keepdim=True)
    batch['inputs'][0, 0, 0, 0] = 1001.0
    return batch


@pytest.mark.parametrize('kind', ['no targets', 'no rows'])
def test_steps_that_prove_nothing_wait_for_a_better_one(kind):
    """For some of them; then the tap is checked all the same."""
    model = tapped(Empty, step_size=0.1)
    if kind == 'no targets':
        model.afan.codebase = SimpleNamespace(watched_calls=lambda m: (), lacks_targets=lambda batch: True)
    batch = emptied() if kind == 'no rows' else batch_of()
    for number in range(PATIENCE):
        log = gradients(model, batch)[1]
        assert model.afan.facts is None and model.afan.num_waits == number + 1
        assert ('adv_t_0.loss_b' in log) is (kind == 'no targets')
        if number == 2:
            break
    model.afan.num_waits = PATIENCE - 1
    gradients(model, batch)
    assert model.afan.facts is None and model.afan.num_waits == PATIENCE == 20
    gradients(model, batch)
    assert model.afan.facts is not None and model.afan.num_waits == 20


def test_a_better_step_ends_the_wait():
    model = tapped(Empty)
    gradients(model, emptied())
    assert model.afan.facts is None and model.afan.num_waits == 1
    gradients(model, batch_of())
    assert model.afan.facts.proven == {'t'} and model.afan.num_waits == 1
    gradients(model, emptied())
    assert model.afan.facts.proven == {'t'} and model.afan.num_waits == 1


def test_a_tap_is_checked_where_every_process_can(monkeypatch):
    """A check runs layers that may wait for the other processes."""
    asked, agreed = [], []

    def reduce(numbers, op):
        asked.append((numbers.tolist(), op))
        numbers[:] = numbers * torch.tensor(agreed.pop(0))

    monkeypatch.setattr(first_step, 'all_reduce', reduce)
    agreed += [[1, 0, 1]]
    assert all_agree([True, True, False]) == [True, False, False] and asked == [([1, 1, 0], 'min')]
    model = tapped(Net)
    agreed += [[0, 1], [1, 0], [1, 1]]
    gradients(model, batch_of())
    assert model.afan.facts is None and model.afan.num_waits == 1
    gradients(model, batch_of())
    assert model.afan.facts.proven == frozenset() and model.afan.facts.idle_calls == dict(t=frozenset())
    gradients(model, batch_of())
    assert model.afan.facts.proven == {'t'}
    assert asked[1:] == [([1, 1], 'min')] * 3 and not agreed


# ---------------------------------------------------------------- replay and what is handed on
class Moody(Net):
    """Its loss is another one in each pass; a stock model may draw random numbers of its own."""
    passes = 0

    def losses(self, inputs, data_samples):
        Moody.passes += 1
        return dict(loss_a=self.classify(self.mid(self.stem(inputs)), data_samples) * Moody.passes)


@pytest.mark.parametrize('replay', [True, False])
def test_a_model_that_never_gives_the_same_loss_is_refused(monkeypatch, replay):
    monkeypatch.setattr(Moody, 'passes', 0)
    refused(r'AFANMoody must give the same loss when a batch comes again with the same weights and random streams, .*',
            Moody, afan=dict(replay=replay))


class Handing(Net):
    """What comes before the tap is handed on past it: in an object that lies in an attribute, or where nobody looks."""
    place = ''

    def build(self):
        super().build()
        self.part = nn.Module()
        self.store, self.part.store = SimpleNamespace(), SimpleNamespace()

    def losses(self, inputs, data_samples):
        x = self.stem(inputs)
        store = dict({'store': self.store, 'part.store': self.part.store}).get(self.place, KEPT)
        if current_pass().kind is PassKind.CLEAN:
            store.x = x
        return dict(loss_a=self.classify(self.mid(x) * store.x, data_samples))


KEPT = SimpleNamespace()


@pytest.mark.parametrize('place, words', [
    ('store', "in the attribute 'store'"), ('part.store', r"in the attribute 'part\.store'"),
    ('', 'on a way that cannot be followed, such as a function, a generator or a global variable')])
def test_what_is_handed_on_past_the_tap_is_refused(monkeypatch, place, words):
    monkeypatch.setattr(Handing, 'place', place)
    refused(r"afan\.taps\.t\.module must name a module past which nothing of the clean pass comes with its gradient, "
            rf"but 'mid' lies after a tensor that is handed on {words}: return it from a module, or detach it", Handing)


def test_what_a_later_weight_was_made_into_may_serve_several_passes(monkeypatch):

    class Cached(Net):
        """A cast of a weight after the tap is kept, as autocast does."""
        kept: list = []

        def losses(self, inputs, data_samples):
            y = self.mid(self.stem(inputs)).mean((2, 3))
            if not Cached.kept:
                Cached.kept.append(self.aux.weight * 1)
            return dict(loss_a=nn.functional.linear(y, Cached.kept[0]).square().mean())

    model = tapped(Cached, afan=dict(schedule='single_graph'))
    assert 'adv_t_0.loss_a' in gradients(model, batch_of())[1]


class AddsInPlace(nn.Module):

    def forward(self, x):
        with torch.no_grad():
            x.add_(1)
        return x * 3


class InPlace(Net):
    """The tap hands on its input, which changes in place afterwards, or changes it itself."""
    way = 'later'

    def build(self):
        super().build()
        self.here = nn.Identity() if self.way == 'later' else AddsInPlace()

    def losses(self, inputs, data_samples):
        x = self.stem(inputs)
        y = self.here(x)
        if self.way == 'later':
            with torch.no_grad():
                x.add_(1)
        return dict(loss_a=self.classify(self.mid(y) + x, data_samples))


@pytest.mark.parametrize('way, sentence', [
    ('later', 'name a module whose output no other tensor shares its memory with'),
    ('itself', 'name a module that changes nothing but its output')])
def test_taps_that_change_what_the_model_computes_are_refused(monkeypatch, way, sentence):
    monkeypatch.setattr(InPlace, 'way', way)
    refused(rf"afan\.taps\.t\.module must {sentence}, but .*'here' .* the loss is .*", InPlace, 'here')


# ---------------------------------------------------------------- what may come later
class Later(Net):
    """A loss that comes in the second epoch, and a branch that a batch may take then."""
    epoch = 0

    def losses(self, inputs, data_samples):
        x = self.stem(inputs)
        losses = dict(loss_a=self.classify(self.mid(x), data_samples))
        if self.epoch:
            losses['loss_later'] = self.aux(self.mid(x).mean((2, 3))).square().mean()
        return losses


@pytest.mark.parametrize('names, has', [(['loss_later'], ()), (['loss_a', 'loss_later'], ('loss_a', ))])
def test_a_tap_is_not_proven_before_each_loss_that_it_names_has_come(names, has):
    model = tapped(Later, step_size=0.1, losses=names)
    with record_warnings() as warnings:
        for epoch in (0, 0, 1):
            model.epoch = epoch
            log = gradients(model, batch_of())[1]
            found = [name for name in ('loss_a', 'loss_later') if f'adv_t_0.{name}' in log]
            assert found == [*has, 'loss_later'][:len(has) + epoch]
            assert model.afan.facts.proven == ({'t'} if epoch else frozenset())
    assert warnings == ["afan.taps.t.losses names 'loss_later', which is not among the losses ['loss_a'] so far: it "
                        'counts from when it comes']
