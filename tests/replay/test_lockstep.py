"""Passes in step: shared modules run once, everything else as if each ran alone, and no trace is left."""
from __future__ import annotations

import gc
import inspect
import threading
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmafan.layers import adopt_norms
from mmafan.replay import Facts, PassKind, Recording, running_pass
from mmafan.replay.checkpointing import Regions
from mmafan.replay.joining import Meetings
from mmafan.replay.lockstep import Lockstep
from mmafan.replay.state import current_pass


class Mixes(nn.Module):
    """Its rows depend on each other."""

    def forward(self, x):
        return x - x.mean(0)


class Watched(nn.Module):
    """A module of one layer that notes how many rows come to it, and whether it trains."""

    def __init__(self, *layers):
        super().__init__()
        self.layers, self.calls = nn.Sequential(*layers), []

    def forward(self, x):
        self.calls.append((len(x), self.training))
        return self.layers(x)


class Net(nn.Module):

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x.square().sum()


def counted(module, sizes):
    module.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    return module


def run(net, clean, others, meetings=None, policy='batch', state=(), agree=bool):
    """Run the forward of a clean batch, and those of waiting ones, which begin with the first layer."""
    recording = Recording(net, {}, len(clean), Facts(changed_state=state))
    lockstep = Lockstep(net, recording, meetings or Meetings(), policy, agree)

    def pass_of(batch):
        with running_pass(PassKind.ADVERSARIAL, policy):
            return net(batch)

    with recording:
        return lockstep.run(lambda: net(clean), [lambda batch=batch: pass_of(batch) for batch in others])


def adversarial(function, *args):
    def waiting():
        with running_pass(PassKind.ADVERSARIAL, 'batch'):
            return function(*args)

    return waiting


def rows(count, seed=0):
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_shared_modules_run_once_and_results_are_those_of_each_alone():
    sizes = []
    last = nn.Sequential(counted(nn.Conv2d(4, 2, 1), sizes))
    net = Net(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), last, Mixes()).double()
    adopt_norms(net, 'batch')
    with running_pass(PassKind.ADVERSARIAL, 'batch'):
        alone = [net(rows(2, 1)), net(rows(1, 2))]
    clean = net(rows(4))
    meetings = Meetings()
    run(net, rows(4), [rows(2, 1), rows(1, 2)], meetings)
    sizes.clear()
    result, others = run(net, rows(4), [rows(2, 1), rows(1, 2)], meetings)
    assert sizes == [7]
    torch.testing.assert_close(result, clean)
    torch.testing.assert_close(others, alone)
    assert meetings.joinable == {'layers.0': True, 'layers.1': True, 'layers.2': True, 'layers.3': False}


def test_where_a_module_does_not_join_its_parts_may():
    net, meetings = Net(nn.Sequential(Watched(nn.Conv2d(3, 4, 3)), Mixes())).double(), Meetings()
    run(net, rows(4), [rows(2, 1), rows(1, 2)], meetings)
    assert meetings.joinable == {'layers.0': False, 'layers.0.0': True, 'layers.0.1': False}
    assert net.layers[0][0].calls[-1] == (7, True)


@pytest.mark.parametrize('kind', [PassKind.ATTACK, PassKind.CHECK])
def test_what_leaves_no_trace_meets_nobody(kind):
    net, meetings = Net(Watched(nn.Conv2d(3, 4, 3))).double(), Meetings()

    def waiting():
        with running_pass(kind, 'batch'):
            return net(rows(2, 1))

    recording = Recording(net, {}, 4, Facts(changed_state=()))
    with recording:
        _, (found, ) = Lockstep(net, recording, meetings, 'batch').run(lambda: net(rows(4)), [waiting])
    assert net.layers[0].calls == [(2, True), (4, True)] and not meetings.joinable
    torch.testing.assert_close(found, net(rows(2, 1)))


def test_gradients_come_to_every_pass():
    net = Net(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()
    adopt_norms(net, 'batch')
    clean, other = rows(2).requires_grad_(), rows(3, 1).requires_grad_()
    result, (waited, ) = run(net, clean, [other])
    (result + 2 * waited).backward()
    expected = [torch.autograd.grad(net(x) * factor, x)[0] for x, factor in ((clean, 1), (other, 2))]
    torch.testing.assert_close([clean.grad, other.grad], expected)


@pytest.mark.parametrize('policy', ['batch', 'shared', 'frozen'])
def test_running_statistics_are_those_that_the_policy_stores(policy):
    """Those of the clean pass, or of both in their order; to try a module stores nothing."""
    net, alone = (Net(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).double() for _ in range(2))
    alone.load_state_dict(net.state_dict())
    adopt_norms(net, policy)
    meetings = Meetings()
    run(net, rows(4), [rows(2, 1)], meetings, policy)
    assert meetings.joinable == {'layers.0': True, 'layers.1': True}
    for batch in (rows(4), rows(2, 1))[:2 if policy == 'shared' else 1]:
        alone(batch)
    torch.testing.assert_close(net.state_dict(), alone.state_dict())


def test_other_sizes_run_by_themselves_and_may_meet_later():
    meetings = Meetings()
    net = Net(nn.Conv2d(3, 4, 3)).double()
    small = rows(2, 1)[..., :3]
    expected = net(small)
    _, (waited, ) = run(net, rows(4), [small], meetings)
    torch.testing.assert_close(waited, expected)
    assert not meetings.joinable and list(meetings.undecided) == ['layers.0']
    run(net, rows(4), [rows(2, 1)], meetings)
    assert meetings.joinable == {'layers.0': True} and not meetings.undecided
    run(net, rows(4), [small], meetings)
    assert meetings.joinable == {'layers.0': True} and not meetings.undecided


def test_where_no_pass_has_rows_each_runs_by_itself():
    """As a head does in a step in which no image has a box."""
    net, meetings = Net(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).eval()).double(), Meetings()
    run(net, rows(4), [rows(2, 1)], meetings)
    assert meetings.joinable == {'layers.0': True, 'layers.1': True}
    result, (waited, ) = run(net, rows(0), [rows(0)], meetings)
    assert result == waited == 0 and result.requires_grad and waited.requires_grad
    result, (waited, ) = run(net, rows(0), [rows(2, 1)], meetings)
    torch.testing.assert_close([result, waited], [net(rows(0)), net(rows(2, 1))])


@pytest.mark.parametrize('in_clean', [True, False])
def test_an_exception_leaves_nothing_behind(in_clean):
    net = Net(nn.Conv2d(3, 4, 3), nn.ReLU()).double()
    forwards = [dict(vars(m)) for m in net.modules()]
    threads = threading.active_count()

    def fail():
        raise ValueError('no')

    recording = Recording(net, {}, 4, Facts(changed_state=()))
    lockstep = Lockstep(net, recording, Meetings(), 'batch')

    def other():
        with running_pass(PassKind.ADVERSARIAL, 'batch'):
            net(rows(2))
        return None if in_clean else fail()

    def clean():
        result = net(rows(4))
        return fail() if in_clean else result

    with pytest.raises(ValueError, match='no'), recording:
        lockstep.run(clean, [other])
    assert [dict(vars(m)) for m in net.modules()] == forwards
    assert threading.active_count() == threads
    assert current_pass().kind is PassKind.CLEAN


def test_the_random_stream_is_the_clean_one():
    net = Net(nn.Identity()).double()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    recording = Recording(net, {}, 4, Facts(changed_state=()))
    found, _ = Lockstep(net, recording, Meetings(), 'batch').run(lambda: torch.rand(1), [lambda: torch.rand(5)])
    assert torch.equal(found, expected)


def test_dropout_does_not_hinder_modules_to_run_once_and_the_trial_leaves_modes_and_streams_alone():
    dropout, frozen = nn.Dropout(), nn.Dropout().eval()
    net, meetings = Net(nn.Sequential(nn.Conv2d(3, 4, 3), dropout, frozen)).double(), Meetings()
    torch.manual_seed(5)
    expected = torch.nn.functional.dropout(torch.ones(6, 4, 2, 2).double())
    torch.manual_seed(5)
    result, others = run(net, rows(4), [rows(2, 1)], meetings)
    assert meetings.joinable == {'layers.0': True}
    values = (net.layers[0][0](torch.cat([rows(4), rows(2, 1)])) * expected).square()  # as one module would draw
    torch.testing.assert_close([result, *others], [values[:4].sum(), values[4:].sum()])
    assert dropout.training and not frozen.training


class Scaled(nn.Module):
    """Its rows are rows of their own, up to a share of what is of all."""

    def __init__(self, share):
        super().__init__()
        self.share = share

    def forward(self, x):
        return x * (1 + self.share * (len(x) > 4))


@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('share, joins', [(5e-4, (True, True)), (5e-3, (False, True)), (0.1, (False, False))])
def test_rows_of_all_are_those_of_each_up_to_the_precision(share, joins, half):
    meetings = Meetings()
    with torch.autocast('cpu', torch.bfloat16, enabled=half):
        run(Net(Scaled(share)), rows(4), [rows(2, 1)], meetings)
    assert meetings.joinable == {'layers.0': joins[half]}


def test_what_cannot_take_the_rows_of_all_runs_for_each():

    class AtMost(nn.Module):

        def forward(self, x):
            if len(x) > 4:
                raise ValueError('too many')
            return 2 * x

    net, meetings = Net(AtMost()), Meetings()
    result, (waited, ) = run(net, rows(4), [rows(2, 1)], meetings)
    torch.testing.assert_close([result, waited], [net(rows(4)), net(rows(2, 1))])
    assert meetings.joinable == {'layers.0': False}


def test_a_module_that_writes_to_its_argument_is_tried_on_copies():

    class Adds(nn.Module):

        def forward(self, x):
            return x.add_(1)

    net, meetings = Net(nn.Conv2d(3, 4, 3), Adds()).double(), Meetings()
    expected = [net(rows(4)), net(rows(2, 1))]
    for _ in range(2):
        result, others = run(net, rows(4), [rows(2, 1)], meetings)
        torch.testing.assert_close([result, *others], expected)
    assert meetings.joinable == {'layers.0': True, 'layers.1': True}


class Around(nn.Module):
    """Two ways to an inner module: through the outer one, or directly."""

    def __init__(self):
        super().__init__()
        self.outer = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3))

    def forward(self, x, direct=False):
        return (self.outer[0](x) if direct else self.outer(x)).square().sum()


def test_inside_of_what_runs_for_all_nothing_meets():
    """A pass that waits at an inner module goes on by itself where the outer one runs for others."""
    net, meetings = Around().double(), Meetings()
    adopt_norms(net, 'batch')
    weights = list(net.parameters())
    expected = [net(rows(4)), net(rows(2, 1)), net(rows(3, 2), direct=True)]
    recording = Recording(net, {}, 4, Facts(changed_state=()))
    for _ in range(2):  # the first time outer and inner module are tried
        lockstep = Lockstep(net, recording, meetings, 'batch')
        with recording:
            result, others = lockstep.run(
                lambda: net(rows(4)), [adversarial(net, rows(2, 1)), adversarial(net, rows(3, 2), True)])
        torch.testing.assert_close([result, *others], expected)
        for one, right in zip([result, *others], expected):
            torch.testing.assert_close(torch.autograd.grad(one, weights[0], retain_graph=True),
                                       torch.autograd.grad(right, weights[0], retain_graph=True))
    assert meetings.joinable['outer']


class Branched(nn.Module):
    """The tap is inside of a stage, after which there is another one; a pass may run a stage twice."""

    def __init__(self):
        super().__init__()
        self.stage, self.last = Watched(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)), Watched(nn.Conv2d(3, 4, 3))

    def forward(self, x):
        return self.last(self.stage(x)).square().sum()


@pytest.mark.parametrize('known', [False, True])
def test_each_pass_has_its_own_feature_at_a_tap_inside_of_a_module(known):
    """What lies around a tap runs for each; what one pass has replaced, another one and the clean one run as it is."""
    net, meetings = Branched().double(), Meetings()
    if known:
        meetings.joinable = {'stage': True, 'last': True}
    recording = Recording(net, dict(t=SimpleNamespace(module='stage.layers.1', at='output')), 4,
                          Facts(changed_state=()))
    feature = rows(2, 3)
    expected = [net(rows(4)), net.last(feature).square().sum(), net(rows(2, 1))]
    lockstep = Lockstep(net, recording, meetings, 'batch')

    def waiting(x, replaces):
        patches = lockstep.patches()
        if replaces:
            patches.set(net.stage.layers[1], 'forward', lambda _: feature)
        with running_pass(PassKind.ADVERSARIAL, 'batch'):
            result = net(x)
        patches.undo()
        return result

    net.stage.calls.clear(), net.last.calls.clear()
    with recording:
        result, others = lockstep.run(lambda: net(rows(4)), [lambda: waiting(rows(2, 1), True),
                                                             lambda: waiting(rows(2, 1), False)])
    torch.testing.assert_close([result, *others], expected)
    assert [count for count, _ in net.stage.calls] == [2, 2, 4]
    assert [count for count, _ in net.last.calls][-1] == 8
    assert [len(c.outputs) for c in recording.captures.values()] == [1]


def test_a_recomputed_region_meets_nobody():
    """What a region runs is run again in the backward, by itself: nothing in it may be of several passes."""
    net, meetings = Net(Watched(nn.Conv2d(3, 4, 3, padding=1)), nn.Conv2d(4, 4, 1)).double(), Meetings()
    last, regions = net.layers[1], Regions(net, (), protects=True)

    def forward(x):
        inner = regions.in_its_pass(net.layers[0])
        return last(regions.in_its_pass(lambda x: net.layers[0](inner(x)[:, :3]))(x)).square().sum()

    expected = [forward(rows(4)), forward(rows(2, 1))]
    recording = Recording(net, {}, 4, Facts(changed_state=()))
    with recording:
        result, others = Lockstep(net, recording, meetings, 'batch').run(
            lambda: forward(rows(4)), [adversarial(forward, rows(2, 1))])
    torch.testing.assert_close([result, *others], expected)
    assert meetings.joinable == {'layers.1': True}


class Noisy(nn.Module):
    """Draws in every mode, and counts its calls."""
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * (1 + torch.rand(1)) + self.calls


def test_streams_and_state_are_those_of_the_clean_pass_where_modules_are_tried():
    net = Net(Noisy(), Noisy()).double()
    torch.manual_seed(0)
    expected, drawn = net(rows(4)), torch.rand(1)
    for layer in net.layers:
        layer.calls = 0
    torch.manual_seed(0)
    places = [(f'layers.{number}', 'calls', 'attribute') for number in range(2)]
    result, _ = run(net, rows(4), [rows(2, 1), rows(1, 2)], state=places)
    assert torch.equal(result, expected) and torch.equal(torch.rand(1), drawn)
    assert [layer.calls for layer in net.layers] == [1, 1]


def test_what_a_pass_runs_when_the_clean_one_is_over_draws_on():
    net = Net(nn.Identity(), Noisy()).double()
    recording = Recording(net, {}, 4, Facts(changed_state=()))
    _, (found, ) = Lockstep(net, recording, Meetings(), 'batch').run(
        lambda: None, [adversarial(lambda: [net.layers[1](torch.ones(1)).frac() for _ in range(2)])])
    assert not torch.equal(*found)


@pytest.mark.parametrize('answers, joinable, undecided', [
    ([True, True], {'layers.0': True}, []), ([True, False], {'layers.0': False}, []), ([False], {}, ['layers.0'])])
def test_other_processes_have_a_say_in_what_joins(answers, joinable, undecided):
    asked, meetings, net = [], Meetings(), Net(nn.Conv2d(3, 4, 3)).double()

    def agree(flag):
        asked.append(flag)
        return answers[len(asked) - 1]

    result, others = run(net, rows(4), [rows(2, 1)], meetings, agree=agree)
    assert asked == [True] * len(answers)  # here both could
    assert meetings.joinable == joinable and list(meetings.undecided) == undecided
    torch.testing.assert_close([result, *others], [net(rows(4)), net(rows(2, 1))])


class Helped(nn.Conv2d):
    """Has a method beside its forward."""

    def help(self, x):
        return x - 1


def test_what_a_pass_replaces_is_replaced_for_it_alone_and_may_call_what_it_replaces():
    net, meetings = Net(Helped(3, 4, 3)).double(), Meetings()
    layer = net.layers[0]
    signature = inspect.signature(layer.forward)
    recording = Recording(net, {}, 4, Facts(changed_state=()))
    lockstep = Lockstep(net, recording, meetings, 'batch')

    def replaces():
        patches, dispatching = lockstep.patches(), layer.forward
        patches.set(layer, 'forward', lambda x: layer(x) + 1)
        assert layer.forward is dispatching
        patches.set(layer, 'help', lambda x: layer.help(x) + 10)
        found = [layer.help(rows(1)), layer(rows(2, 1)), layer(rows(2, 2)), layer.help(rows(1))]
        patches.undo()
        return [*found, layer.help(rows(1)), layer(rows(2, 3))]

    def forward(x):
        assert inspect.signature(layer.forward) == signature
        return [layer.help(x), layer(x)]

    with recording:
        result, (found, other) = lockstep.run(
            lambda: layer(rows(4)), [adversarial(replaces), adversarial(forward, rows(3, 1))])
    torch.testing.assert_close(found, [
        rows(1) + 9, layer(rows(2, 1)) + 1, layer(rows(2, 2)) + 1, rows(1) + 9, rows(1) - 1, layer(rows(2, 3))])
    torch.testing.assert_close([result, *other], [layer(rows(4)), *forward(rows(3, 1))])
    assert meetings.joinable == {'layers.0': True}


def test_passes_outlive_their_step_no_longer_than_their_results():
    net = Net(nn.Conv2d(3, 4, 3)).double()
    recording, feature = Recording(net, {}, 4, Facts(changed_state=())), rows(2, 1)
    gone = weakref.ref(feature)
    lockstep = Lockstep(net, recording, Meetings(), 'batch')
    gc.collect()
    gc.disable()
    try:
        with recording:
            lockstep.run(lambda: net(rows(4)), [adversarial(lambda x, _: net(x), feature, lockstep)])
        del feature, lockstep
        assert gone() is None
    finally:
        gc.enable()


def test_after_an_error_of_the_clean_pass_others_run_no_further():
    net, sizes = Net(nn.Identity()), []
    net.layers.append(counted(nn.ReLU(), sizes))
    net.layers[0].register_forward_hook(lambda _, args, __: 1 / 0 if len(args[0]) == 4 else None)
    with pytest.raises(ZeroDivisionError):
        run(net, rows(4), [rows(2), rows(1)], Meetings())
    assert sizes == []
