"""What a batch norm does in each kind of pass under each policy, and in a pass that is several at once."""
from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mmafan.layers import AFANNorm
from mmafan.layers.norm_mode import by_groups
from mmafan.replay import PassKind, running_pass
from mmafan.replay.state import PassState, Unjoinable, current_pass

CLEAN, ATTACK, ADVERSARIAL, CHECK = PassKind.CLEAN, PassKind.ATTACK, PassKind.ADVERSARIAL, PassKind.CHECK
POLICIES = ('shared', 'batch', 'frozen', 'separate')
# By kind and policy: whose weights and which statistics normalise, and whose running statistics follow the batch.
DOES = {
    **{(CLEAN, policy): ('main', 'batch', 'main') for policy in POLICIES},
    **{(CHECK, policy): ('main', 'batch', None) for policy in POLICIES},
    (ATTACK, 'shared'): ('main', 'batch', None), (ADVERSARIAL, 'shared'): ('main', 'batch', 'main'),
    (ATTACK, 'batch'): ('main', 'batch', None), (ADVERSARIAL, 'batch'): ('main', 'batch', None),
    (ATTACK, 'frozen'): ('main', 'running', None), (ADVERSARIAL, 'frozen'): ('main', 'running', None),
    (ATTACK, 'separate'): ('auxiliary', 'batch', None), (ADVERSARIAL, 'separate'): ('auxiliary', 'batch', 'auxiliary'),
}


def two_norms():
    """A norm whose auxiliary one gives twice as much, far away."""
    norm = AFANNorm(2, policy='separate')
    with torch.no_grad():
        norm.running_mean.fill_(3.0)
        norm.auxiliary.weight.fill_(2.0)
        norm.auxiliary.bias.fill_(50.0)
    return norm


@pytest.mark.parametrize('kind, policy', DOES, ids=lambda v: getattr(v, 'value', v))
def test_who_normalises_with_which_statistics_and_who_keeps_them(kind, policy):
    norm, x = two_norms(), torch.randn(8, 2, 3, 3) + 1
    whose, statistics, keeps = DOES[kind, policy]
    norm.policy = None
    norms = dict(main=norm, auxiliary=norm.auxiliary)
    before = {name: one.running_mean.clone() for name, one in norms.items()}
    with running_pass(kind, policy):
        found = norm(x)
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    normed = (x - mean) / (var + 1e-5).sqrt() if statistics == 'batch' else (x - 3) / (1 + 1e-5)**0.5
    torch.testing.assert_close(found, 2 * normed + 50 if whose == 'auxiliary' else normed)
    changed = {name for name, one in norms.items() if not torch.equal(one.running_mean, before[name])}
    assert changed == ({keeps} if keeps else set())


def saved_rows(norm, x):
    """How many tensors of one number per channel a pass saves for its backward."""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        norm(x)
    return saved.count(torch.Size([2]))


@pytest.mark.parametrize('policy', POLICIES)
def test_what_a_pass_saves_for_its_backward(policy):
    """A checked pass recomputes clean ones, so that it saves as much; a pass that stores nothing needs less."""
    norm, x = AFANNorm(2, policy=policy), torch.randn(8, 2, 3, 3, requires_grad=True)
    clean = saved_rows(norm, x)
    with running_pass(CHECK, policy):
        assert saved_rows(norm, x) == clean
    if policy in ('shared', 'batch'):
        with running_pass(ATTACK, policy):
            assert saved_rows(norm, x) < clean


@pytest.mark.parametrize('policy', POLICIES)
def test_a_checked_pass_can_recompute_a_clean_one(policy):
    """As torch does it, which compares how many tensors were saved; the statistics have seen the batch once."""
    norm, x = AFANNorm(2, policy=policy), torch.randn(8, 2, 3, 3, requires_grad=True)
    loss = checkpoint(norm, x, use_reentrant=False)[:, 0].square().sum()
    with running_pass(CHECK, policy):
        gradient, = torch.autograd.grad(loss, x)
    again, = torch.autograd.grad(norm(x)[:, 0].square().sum(), x)
    assert torch.equal(gradient, again) and norm.num_batches_tracked == 2


@pytest.mark.parametrize('copies', [1, 3])
def test_each_pass_of_a_joined_one_gets_its_own_rows(copies):
    """A module may make several rows of a sample, such as one for each of its regions."""
    groups, seen = ((2, CHECK), (0, ATTACK), (3, ATTACK)), []

    def norm(part):
        seen.append((current_pass(), len(part)))
        return part * 10**len(seen)

    rows = torch.arange(5.0 * copies)[:, None]
    found = by_groups(norm, rows, PassState(PassKind.JOINED, 'separate', groups))
    first = 2 * copies
    assert seen == [(PassState(CHECK, 'separate'), first), (PassState(ATTACK, 'separate'), 3 * copies)]
    assert torch.equal(found, torch.cat([rows[:first] * 10, rows[first:] * 100])) and current_pass().kind is CLEAN


@pytest.mark.parametrize('rows, groups', [(4, ((2, CHECK), (1, ATTACK))), (2, ((2, CHECK), (1, ATTACK))),
                                          (3, ((0, CHECK), ))])
def test_rows_of_no_known_pass_cannot_be_joined(rows, groups):
    total = sum(count for count, _ in groups)
    with pytest.raises(Unjoinable, match=f'^a norm gets {rows} rows of {total} samples$'):
        by_groups(torch.relu, torch.ones(rows, 2), PassState(PassKind.JOINED, 'batch', groups))
