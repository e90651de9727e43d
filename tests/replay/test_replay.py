"""One adversarial pass: what replays, what runs and as which pass, and what is put back at its end."""
from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmafan.replay import Facts, PassKind, PassState, Recording, Replay, WatchedCall
from mmafan.replay.batch import Chosen
from mmafan.replay.state import Patches, current_pass

SEEN = []  # what a module keeps itself is in a pass as the clean one found it


class Probe(nn.Linear):
    """Notes the pass in which it runs."""

    def __init__(self, bias=False):
        super().__init__(3, 3, bias=bias)

    def forward(self, x):
        SEEN.append((self, current_pass()))
        return super().forward(x)


class Plain(nn.Module):
    """Without parameters."""

    def forward(self, x):
        SEEN.append((self, current_pass()))
        return x + 1


class Net(nn.Module):
    """The modules ``again`` run before the tap, between its two calls, and after it."""

    def __init__(self):
        super().__init__()
        self.stem, self.tap, self.head = Probe(), nn.Linear(3, 3), Probe()
        self.again = nn.ModuleDict(dict(held=Probe(), mixed=Probe(bias=True), plain=Plain()))
        self.helper = SimpleNamespace(help=lambda x: 2 * x)

    def around(self, x):
        for module in self.again.values():
            x = module(x)
        return x

    def forward(self, x):
        x = self.tap(self.helper.help(self.around(self.stem(x))))
        return self.head(self.around(self.tap(self.around(x)))).square().mean()

    def pop_seen(self):
        found = {name.rpartition('.')[2]: [(state.kind, state.batch_norm, state.before_tap)
                                           for one, state in SEEN if one is module]
                 for name, module in self.named_modules() if isinstance(module, (Probe, Plain))}
        SEEN.clear()
        return found


STATE = PassState(PassKind.ADVERSARIAL, 'frozen')
BEFORE, BETWEEN, AFTER = ((PassKind.ATTACK, 'batch', True), (PassKind.ADVERSARIAL, 'frozen', True),
                          (PassKind.ADVERSARIAL, 'frozen', False))
CONSTANT = (PassKind.ATTACK, 'batch', False)


def record(net, x, replays=True, module='tap', **facts):
    calls = (WatchedCall(net.helper, 'help'), )
    recording = Recording(net, dict(t=SimpleNamespace(module=module, at='output')), len(x), Facts(calls, **facts),
                          replays)
    with recording:
        loss = net(x)
    net.pop_seen()
    return recording, loss


@pytest.mark.parametrize('replays, held', [(True, False), (True, True), (False, False)])
def test_what_runs_runs_as_its_pass(replays, held):
    net, x = Net(), torch.rand(2, 3)
    names = frozenset({'again.held.weight', 'again.mixed.weight'})
    recording, loss = record(net, x, replays, held={'t': names} if held else {})
    with Replay(recording, 't', recording.captures['t'].features, STATE):
        again = net(x)
        trains = [name for name, p in net.named_parameters() if p.requires_grad]
    torch.testing.assert_close(again, loss)
    beside = [BETWEEN, AFTER]
    assert net.pop_seen() == dict(
        stem=[] if replays else [BEFORE], head=[AFTER],
        held=[CONSTANT] * 2 if held else beside if replays else [BEFORE, *beside],
        mixed=beside if replays else [BEFORE, *beside], plain=beside if replays else [BEFORE, *beside])
    assert trains == [name for name, _ in net.named_parameters() if not held or name not in names]
    assert all(p.requires_grad for p in net.parameters()) and current_pass() == PassState()
    with Replay(recording, '', [], STATE):  # everything is suffix
        assert current_pass() == STATE


def test_a_module_that_is_frozen_anyway_runs_as_the_pass_after_the_tap():
    net, x = Net(), torch.rand(2, 3)
    net.again.held.requires_grad_(False)
    recording, _ = record(net, x)
    with Replay(recording, 't', recording.captures['t'].features, STATE):
        net(x)
    assert net.pop_seen()['held'] == [BETWEEN, AFTER]


@pytest.mark.parametrize('known', [False, True])
def test_parameters_before_the_tap_are_constants_where_the_prefix_runs_or_until_the_tap(known):
    net, x = Net(), torch.rand(2, 3)
    seen = []
    recording, _ = record(net, x, False, before={'t': frozenset({'stem.weight'})}, held={'t': frozenset()} if known
                          else {}, until={'t': frozenset({'again.held.weight'})})
    net.stem.register_forward_hook(lambda *_: seen.append((net.stem.weight.requires_grad,
                                                           net.again.held.weight.requires_grad)))
    net.head.register_forward_hook(lambda *_: seen.append((net.stem.weight.requires_grad,
                                                           net.again.held.weight.requires_grad)))
    with torch.no_grad():
        with Replay(recording, 't', recording.captures['t'].features, STATE):
            assert torch.is_grad_enabled()
            net(x)
        assert not torch.is_grad_enabled()
    assert seen == [(False, False), (False, True)] and net.stem.weight.requires_grad


class Refusing(Patches):

    def set(self, owner, name, function):
        super().set(owner, name, function)
        raise ZeroDivisionError


def test_the_last_step_before_an_error_is_undone_too():
    net, x = Net(), torch.rand(2, 3)
    recording, _ = record(net, x, held={'t': frozenset({'stem.weight'})})
    before = [dict(vars(module)) for module in net.modules()]
    recording.make_patches = Refusing
    with pytest.raises(ZeroDivisionError):
        Replay(recording, 't', recording.captures['t'].features, STATE).__enter__()
    assert net.stem.weight.requires_grad and current_pass() == PassState()
    assert [dict(vars(module)) for module in net.modules()] == before


@pytest.mark.parametrize('calls, sentence', [
    (1, 'ran 1 times in an adversarial pass but 2 times in the clean one'),
    (3, 'ran more often in an adversarial pass than the 2 times of the clean one')])
def test_a_tap_runs_as_often_as_in_the_clean_pass(calls, sentence):
    net, x = Net(), torch.rand(2, 3)
    recording, _ = record(net, x)
    with pytest.raises(RuntimeError, match=sentence):
        with Replay(recording, 't', recording.captures['t'].features, STATE):
            for _ in range(calls):
                net.tap(x)


class Sampled(nn.Module):
    """A method is called for each sample, in two branches."""

    def __init__(self, count):
        super().__init__()
        self.tap, self.helper, self.count = nn.Linear(3, 3), SimpleNamespace(help=lambda k: 10 * k), count

    def forward(self, x, count=None):
        return self.tap(x).sum(), [self.helper.help(k) for k in range(count or self.count)]


def test_a_method_of_each_sample_gives_a_pass_the_results_of_its_own_samples():
    net, x, chosen = Sampled(6), torch.rand(3, 3), Chosen(torch.tensor([0, 2]), 3)
    for paired in (False, True):
        call = WatchedCall(net.helper, 'help', paired=paired, per_sample=True)
        recording = Recording(net, dict(t=SimpleNamespace(module='tap', at='output')), 3,
                              Facts((call, ), idle_calls={'t': frozenset() if paired else frozenset({0})}))
        with recording:
            net(x)
        features = [chosen.rows(f) for f in recording.captures['t'].features]
        with Replay(recording, 't', features, STATE, chosen):
            assert net(x, 5)[1] == [0, 20, 30, 50, 40]  # the last one is a new call
        with Replay(recording, 't', recording.captures['t'].features, STATE):
            assert net(x)[1] == [0, 10, 20, 30, 40, 50]


def test_results_that_cannot_be_told_apart_are_refused():
    net, x, chosen = Sampled(4), torch.rand(3, 3), Chosen(torch.tensor([0, 2]), 3)
    call = WatchedCall(net.helper, 'help', paired=True, per_sample=True)
    recording = Recording(net, dict(t=SimpleNamespace(module='tap', at='output')), 3, Facts((call, )))
    with recording:
        net(x)
    features = [chosen.rows(f) for f in recording.captures['t'].features]
    sentence = "SimpleNamespace.help ran 4 times for 3 samples, .*; set the fraction of tap 't' to 1.0"
    with pytest.raises(RuntimeError, match=sentence):
        with Replay(recording, 't', features, STATE, chosen):
            pass
    with Replay(recording, 't', recording.captures['t'].features, STATE):
        assert net(x)[1] == [0, 10, 20, 30]


@pytest.mark.parametrize('idle', [False, True])
def test_a_method_that_a_loss_does_not_depend_on_replays_after_the_tap_too(idle):
    calls, chosen = [], Chosen(torch.tensor([0, 2]), 3)

    class Helped(Sampled):

        def forward(self, x):
            return self.helper.help(1), self.tap(x).sum(), self.helper.help(2)

    net, x = Helped(2), torch.rand(3, 3)
    net.helper.help = lambda k: calls.append(k) or 10 * k
    recording = Recording(net, dict(t=SimpleNamespace(module='tap', at='output')), 3, Facts(
        (WatchedCall(net.helper, 'help'), ), idle_calls={'t': frozenset({0} if idle else ())}))
    with recording:
        net(x)
    calls.clear()
    with Replay(recording, 't', [chosen.rows(f) for f in recording.captures['t'].features], STATE, chosen):
        first, _, second = net(x)
    assert (first, second) == (10, 20) and calls == ([] if idle else [2])
