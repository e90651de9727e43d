"""Recording and replay on small networks whose forward does what stock models do not."""
from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import nn

from mmafan import afan_model
from mmafan.replay import Facts, Recording, WatchedCall

from ..training import record_warnings


class Net(BaseModel):
    """Linear layers ``a``, ``b``, ``t``, ``c`` and a subclass's way through them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        for name in 'abtc':
            setattr(self, name, nn.Linear(6, 6))
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return {'loss': self.run(inputs).square().mean()} if mode == 'loss' else None


class InPlaceBeforeTap(Net):

    def run(self, x):
        h = self.a(x)
        h += self.b(x)
        return self.c(self.t(torch.tanh(h)) + h)


class InPlaceAfterTap(Net):
    """As ``out += identity`` of a residual block whose shortcut is the tap."""

    def run(self, x):
        h = self.a(x)
        h += self.t(x + self.b(x))
        return self.c(h)


class SharedActivation(Net):
    """An activation in place, used before and after the tap, and dropout on both sides."""

    def run(self, x):
        h = self.drop(self.act(self.a(x)))
        return self.c(self.drop(self.act(self.t(h)))) + h


class SeveralCalls(Net):
    """The tap's module runs twice in one forward, as shared heads of detectors do."""

    def run(self, x):
        return self.c(self.act(self.t(self.a(x))) + self.t(self.b(x)))


class TupleTap(Net):

    class Pair(nn.Module):

        def forward(self, x):
            return x[:, :3], {'rest': x[:, 3:], 'size': torch.tensor(6), 'scale': torch.tensor(1.5)}, 'text'

    def __init__(self):
        super().__init__()
        self.t = self.Pair()

    def run(self, x):
        first, second, _ = self.t(self.a(x))
        return self.c(torch.cat([first, second['rest'] * second['scale']], dim=1))


NETS = [InPlaceBeforeTap, InPlaceAfterTap, SharedActivation, SeveralCalls, TupleTap]


def gradients(cls, schedule, replay, steps=3, **tap):
    tap = dict(dict(module='t', step_size=0.3, strengths=(0.5, 1.0)), **tap)
    model = afan_model(cls)(afan=dict(taps=dict(s=tap), schedule=schedule, replay=replay)).double()
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper, found = OptimWrapper(optimizer), []
    update = optimizer.step

    def step():
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        update()

    optimizer.step = step
    for number in range(steps):  # mutable outputs are found in the first step and copied from the second on
        torch.manual_seed(number)
        model.train_step(dict(inputs=torch.randn(5, 6, dtype=torch.float64)), wrapper)
    return found


@pytest.mark.parametrize('cls', NETS)
@pytest.mark.parametrize('tap', [{}, dict(fraction=0.6), dict(num_steps=2)], ids=['plain', 'fraction', 'pgd'])
def test_replay_equals_running_the_prefix_again(cls, tap):
    if cls is SharedActivation and 'fraction' in tap:  # a prefix that runs on fewer samples draws other dropout masks
        tap = dict(tap, fraction=1.0)
    expected = gradients(cls, 'two_phase', False, **tap)
    for schedule in ('two_phase', 'single_graph'):
        found = gradients(cls, schedule, True, **tap)
        for left, right in zip(found, expected):
            assert left.keys() == right.keys() and left
            for name in right:
                assert torch.allclose(left[name], right[name], rtol=0, atol=1e-12), (schedule, name)


@pytest.mark.parametrize('cls, changed', [(InPlaceBeforeTap, {'a'}), (InPlaceAfterTap, {'a'}),
                                          (SharedActivation, set())])
def test_only_outputs_changed_in_place_are_copied(cls, changed):
    """An activation in place replays as well as the layer before it: nothing to copy."""
    model = afan_model(cls)(afan=dict(taps=dict(s=dict(module='t', step_size=0.1)))).train()
    model.train_step(dict(inputs=torch.randn(4, 6)), OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    assert model.afan.facts.changed_in_place == changed


def test_an_output_first_changed_in_a_later_step_runs_the_prefix_again():
    """Once, with a warning; from then on it is copied. The gradients are those of a model that never replays."""

    class Later(Net):
        late = False

        def run(self, x):
            h = self.a(x)
            if self.late:
                h += 1
            return self.c(self.t(h) + h)

    weights = []
    for replay in (True, False):
        model = afan_model(Later)(afan=dict(taps=dict(s=dict(module='t', step_size=0.1)), replay=replay)).train()
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
        torch.manual_seed(5)
        model.train_step(dict(inputs=torch.randn(4, 6)), wrapper)
        with record_warnings() as warnings:
            for _ in range(3):
                model.late = True
                model.train_step(dict(inputs=torch.randn(4, 6)), wrapper)
        assert sum("['a'] is changed in place" in text for text in warnings) == replay
        weights.append([p.detach() for p in model.parameters()])
        assert not replay or model.afan.facts.changed_in_place == {'a'}
    assert all(torch.allclose(*pair, rtol=0, atol=1e-7) for pair in zip(*weights))


def test_a_tap_that_runs_another_number_of_times_is_refused():

    calls = []

    class Fickle(Net):

        def run(self, x):
            calls.append(x)  # what a model keeps itself is in a pass as the clean one found it
            x = self.t(self.a(x))
            return self.c(self.t(x) if len(calls) % 2 else x)

    model = afan_model(Fickle)(afan=dict(taps=dict(s=dict(module='t', step_size=0.1)))).train()
    with pytest.raises(ValueError, match='^Fickle must give the same loss when a batch comes again'):
        model.train_step(dict(inputs=torch.randn(4, 6)), OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))


# ---------------------------------------------------------------- a recording by itself
class Parts(nn.Module):
    """A stem of two layers, a branch and a list that did not run, a tap, and what comes after it."""
    late = False

    def __init__(self):
        super().__init__()
        self.data_preprocessor = nn.Identity()
        self.stem = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 3), nn.Identity()))
        self.stem[2].forward = self.stem[2][0].forward  # whose last part does not run
        self.branch, self.stages = nn.Linear(3, 3), nn.ModuleList([nn.Linear(3, 3)])
        self.tap, self.head = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        x = self.stem(self.data_preprocessor(x))
        if self.late:
            x = self.stages[0](self.branch(x))
        return self.head(self.tap(x))


def record(model, x, facts=Facts(), at='output', **kwargs):
    recording = Recording(model, dict(t=SimpleNamespace(module='tap', at=at)), len(x), facts, **kwargs)
    with recording:
        model.forward(x)  # as a loss, past the hooks of the model itself
    return recording


@pytest.mark.parametrize('at', ['output', 'input'])
def test_later_steps_record_the_outermost_modules_before_the_tap_and_those_that_may_run(at):
    model, x = Parts(), torch.rand(2, 3)
    recording = record(model, x, at=at)
    names = {id(module): name for name, module in model.named_modules()}

    def recorded(recording):
        return [names[id(r.owner)] for r in recording.captures['t'].prefix]

    recording.facts = replace(recording.facts, other_losses={'t': frozenset({'loss'})})
    facts = recording.learned()
    assert recorded(recording) == ['stem'] and facts.idle_calls == facts.other_losses == {}
    assert facts.hooked == {'stem', 'branch', 'stages.0'}
    assert facts.changed_state == () and facts.attributes == frozenset() and facts.changed_in_place == frozenset()
    model.late = True
    assert recorded(record(model, x, facts, at)) == ['stem', 'branch', 'stages.0']
    assert recorded(record(model, x, facts, at, replays=False)) == []
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_tap_at_an_input_has_the_values_that_come_to_it_whatever_is_done_to_them_later():
    """The caller may add to what it has handed to the module, as a residual does."""

    class Residual(Parts):

        def forward(self, x):
            x = self.stem(x)
            y = self.tap(x)
            x += y
            return x

    model, x = Residual(), torch.rand(2, 3)
    recording = record(model, x, at='input')
    capture = recording.captures['t']
    assert torch.equal(capture.features[0], model.stem(x)) and not capture.changed


def test_what_is_hidden_is_no_part_of_a_recording():
    model, x = Parts(), torch.rand(2, 3)
    helper = SimpleNamespace(help=lambda: 1)
    for at in ('output', 'input'):
        recording = Recording(model, dict(t=SimpleNamespace(module='tap', at=at)), 2,
                              Facts((WatchedCall(helper, 'help'), )))
        with recording:
            with recording.hidden():
                with recording.hidden():
                    model(x)
                model(x), helper.help()
            helper.help()
            model(x)
        assert len(recording.captures['t'].outputs) == 1
        assert [r.name for r in recording.captures['t'].prefix] == ['help', 'forward']


def test_what_runs_inside_of_a_paired_method_is_no_part_of_any_pass():
    model, x = Parts(), torch.rand(2, 3)
    helper = SimpleNamespace(help=lambda: model.branch(x))
    for paired in (False, True):
        recording = Recording(model, dict(t=SimpleNamespace(module='tap', at='output')), 2,
                              Facts((WatchedCall(helper, 'help', paired=paired), )))
        with recording:
            helper.help()
            model(x)
            helper.help()
        assert [r.name for r in recording.captures['t'].prefix] == ['help', 'forward']
        assert (id(model.branch) in recording._finished) is not paired
        assert [len(records) for _, records in recording.calls_to_replay('t')] == [2] * paired


@pytest.mark.parametrize('idle, count', [(None, 2), ({}, 1), ({'t': frozenset()}, 1), ({'t': frozenset({0})}, 2)])
def test_methods_are_kept_as_long_as_a_pass_may_need_them(idle, count):
    """Before the tap all; after it those whose results a pass takes, and all where that is not known."""
    model, x = Parts(), torch.rand(2, 3)
    helper = SimpleNamespace(help=lambda: torch.ones(1, requires_grad=True) * 2)
    call = WatchedCall(helper, 'help')
    recording = Recording(model, dict(t=SimpleNamespace(module='tap', at='output')), 2,
                          Facts((call, ), idle_calls=idle))
    with recording:
        helper.help(), model(x), helper.help()
    assert len(recording._call_records[call.key]) == count
    assert recording.find_idle(set()) == (frozenset({0}) if idle is None else frozenset())
    expected = [(call, count)] if idle and idle['t'] else []
    assert [(one, len(records)) for one, records in recording.calls_to_replay('t')] == expected
    assert helper.help.__name__ == '<lambda>'  # as it was


class Again(nn.Module):
    """Calls itself before the tap, which is inside of it."""

    def __init__(self):
        super().__init__()
        self.stem, self.tap = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x, deep=True):
        return self.tap(self(self.stem(x), False)) if deep else x + 1


def test_a_module_that_calls_itself_leaves_what_ran_in_it_before():
    model = nn.Sequential(Again())
    recording = Recording(model, dict(t=SimpleNamespace(module='0.tap', at='output')), 2)
    with recording:
        model(torch.rand(2, 3))
    assert [r.owner for r in recording.captures['t'].prefix] == [model[0].stem, model[0]]


def test_a_module_that_calls_itself_hidden_is_recorded_as_a_whole():
    model, helper = nn.Sequential(Again(), nn.Linear(3, 3)), SimpleNamespace()
    again = model[0]
    helper.help = lambda x: again(x, False)
    again.tap.forward = lambda x: helper.help(x)
    recording = Recording(model, dict(t=SimpleNamespace(module='1', at='output')), 2,
                          Facts((WatchedCall(helper, 'help', paired=True), )))
    with recording:
        model(torch.rand(2, 3))
    assert [r.owner for r in recording.captures['t'].prefix] == [again]


def test_what_a_tap_hands_to_its_module_beside_features_is_what_came_to_it():

    class Notes(nn.Linear):

        def forward(self, x, notes):
            notes['seen'].append(len(x))
            return super().forward(x)

    class Noted(Parts):

        def __init__(self):
            super().__init__()
            self.tap = Notes(3, 3)

        def forward(self, x, notes):
            return self.head(self.tap(self.stem(x), notes=notes))

    model, notes = Noted(), dict(seen=[])
    recording = Recording(model, dict(t=SimpleNamespace(module='tap', at='input')), 2)
    with recording:
        model(torch.rand(2, 3), notes)
    assert notes == dict(seen=[2]) and len(recording.captures['t'].live) == 1


@pytest.mark.parametrize('fails', [False, True])
def test_outputs_that_are_changed_in_place_are_known_together_after_a_step_that_ends(fails):

    class Changed(Parts):

        def forward(self, x):
            x = self.stem(x)
            y = self.tap(x)
            with torch.no_grad():
                x.add_(1)
            return y if not fails else 1 / 0

    model, x = Changed(), torch.rand(2, 3)
    recording = Recording(model, dict(t=SimpleNamespace(module='tap', at='output')), 2,
                          Facts(hooked=frozenset({'stem', 'branch'}), changed_in_place=frozenset({'branch'})))
    with record_warnings() as warnings:
        try:
            with recording:
                model(x)
        except ZeroDivisionError:
            assert fails
    assert len(warnings) == (not fails)
    assert recording.facts.changed_in_place == ({'branch'} if fails else {'branch', 'stem'})


def test_inputs_are_a_tap_where_their_values_are_floating():
    recording = Recording(Parts(), dict(s=SimpleNamespace(module='tap', at='output'),
                                        t=SimpleNamespace(module='inputs', at='output')), 2)
    inputs = dict(x=torch.rand(2, 3), ids=torch.arange(2))
    with recording:
        found = recording.record_inputs(inputs)
    assert found['x'].requires_grad and not found['ids'].requires_grad and not inputs['x'].requires_grad
    assert recording.captures['t'].perturbed == [True, False] and recording.captures['s'].idle == 'not reached'
    other = Recording(Parts(), dict(s=SimpleNamespace(module='tap', at='output')), 2)
    assert other.record_inputs(inputs) is inputs


@pytest.mark.parametrize('paired, idle', [(False, {0}), (True, set())])
def test_idle_are_methods_with_a_gradient_that_no_loss_comes_from(paired, idle):
    helper, x = SimpleNamespace(help=lambda x: (x * 2, x.detach())), torch.ones(1, requires_grad=True)
    recording = Recording(nn.Module(), {}, 1, Facts((WatchedCall(helper, 'help', paired=paired), )))
    with recording:
        result = helper.help(x)[0]
    assert recording.find_idle(set()) == idle and recording.find_idle({result.grad_fn}) == frozenset()
