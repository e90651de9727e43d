"""Passes in step: shared modules run once, everything else as if each ran alone, and no trace is left."""
from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmafan.layers import adopt_norms
from mmafan.replay import Facts, PassKind, Recording, running_pass
from mmafan.replay.joining import Joins, Meetings, alike
from mmafan.replay.lockstep import Lockstep
from mmafan.replay.state import Unjoinable, current_pass


class Mixes(nn.Module):
    """Its rows depend on each other."""

    def forward(self, x):
        return x - x.mean(0)


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


def run(net, clean, others, meetings=None):
    """Run the forward of a clean batch, and those of waiting ones, which begin with the first layer."""
    recording = Recording(net, {}, len(clean), Facts(changed_state=()))
    lockstep = Lockstep(net, recording, meetings or Meetings(), 'batch')

    def pass_of(batch):
        with running_pass(PassKind.ADVERSARIAL, 'batch'):
            return net(batch)

    with recording:
        return lockstep.run(lambda: net(clean), [lambda batch=batch: pass_of(batch) for batch in others])


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


def test_gradients_come_to_every_pass():
    net = Net(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()
    adopt_norms(net, 'batch')
    clean, other = rows(2).requires_grad_(), rows(3, 1).requires_grad_()
    result, (waited, ) = run(net, clean, [other])
    (result + 2 * waited).backward()
    expected = [torch.autograd.grad(net(x) * factor, x)[0] for x, factor in ((clean, 1), (other, 2))]
    torch.testing.assert_close([clean.grad, other.grad], expected)


def test_running_statistics_are_those_of_the_clean_pass():
    net, alone = (Net(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).double() for _ in range(2))
    alone.load_state_dict(net.state_dict())
    adopt_norms(net, 'batch')
    run(net, rows(4), [rows(2, 1)])
    alone(rows(4))
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


# ---------------------------------------------------------------- arguments and results
def test_what_was_together_is_not_copied():
    joins = Joins()
    whole, sizes = joins.join([torch.zeros(2, 3), torch.zeros(1, 3)])
    parts = joins.split(whole, sizes)
    assert joins.join(parts)[0] is whole
    parts[0].add_(1)  # now they are others
    again, _ = joins.join(parts)
    assert again is not whole and torch.equal(again, torch.cat(parts))


@pytest.mark.parametrize('values', [
    (torch.zeros(2, 3), torch.zeros(2, 4)), (torch.zeros(2), torch.zeros(2).long()), (torch.zeros(()), torch.ones(())),
    ((torch.zeros(2), 1), (torch.zeros(2), 2)), ([torch.zeros(2)], [torch.zeros(2)] * 2), (1, 1),
    ((torch.zeros(2), SimpleNamespace()), (torch.zeros(2), SimpleNamespace())),
    ([torch.zeros(2), torch.zeros(4)], [torch.zeros(2), torch.zeros(3)]),
], ids=str)
def test_what_does_not_fit_is_refused(values):
    with pytest.raises(Unjoinable):
        Joins().join(values)


def test_a_result_of_all_passes_is_refused():
    with pytest.raises(Unjoinable):
        Joins().split(torch.ones((), requires_grad=True), (1, 1))


def test_alike_looks_at_every_tensor():
    assert alike((torch.ones(2), torch.arange(2)), (torch.ones(2), torch.arange(2)), 1e-3)
    assert not alike((torch.ones(2), torch.arange(2)), (torch.ones(2), torch.arange(2) + 1), 1e-3)
    assert not alike([torch.ones(2)], [torch.ones(3)], 1e-3)


@pytest.mark.parametrize('size', [1e-3, 1.0, 1e3])
def test_alike_is_relative_to_the_values(size):
    one = size * torch.tensor([1.0, -0.5])
    assert alike(one, one * 1.0005, 1e-3) and not alike(one, one * 1.002, 1e-3)
