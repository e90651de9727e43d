"""Activation checkpointing of the codebases and of mmengine changes memory alone: gradients, logs, random streams."""
from __future__ import annotations

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing
from torch import nn
from torch.utils import checkpoint as torch_checkpoint

from mmafan import afan_model
from mmafan.replay.checkpointing import Regions

from ..training import step

STAGES = [f'backbone.layer{i}' for i in range(1, 5)]
TAPS = ['backbone.layer2', 'backbone.layer2.1.conv1', 'backbone.bn1', 'inputs']
RECIPE = dict(step_size=0.3, step_unit='std', strengths=(0.5, 1.0), reinject=(False, True))
POLICIES = ['shared', 'batch', 'frozen', 'separate']


def afan_of(tap, **fields):
    names = ('num_steps', 'radius', 'attack_losses')
    recipe = dict(RECIPE, module=tap, **{n: fields.pop(n) for n in names if n in fields})
    return dict(taps=dict(t=recipe), clean_weight=0.5, **fields)


def run(build, batch, checkpointed, tap='backbone.layer2', momentum=0.1, **fields):
    """Train one step; return log, gradients, buffers, and how often the first convolution of each stage ran."""
    fields.setdefault('batch_norm', 'batch')
    backbone = dict(with_cp=checkpointed == 'with_cp', drop_path_rate=0.5, norm_cfg=dict(type='BN', momentum=momentum))
    changes = dict(afan=afan_of(tap, **fields)) if tap else dict(afan=None, type='ImageClassifier')
    model = build(backbone=backbone, **changes).double()
    if checkpointed == 'mmengine':
        turn_on_activation_checkpointing(model, STAGES)
    counts = dict.fromkeys(STAGES, 0)
    for name in STAGES:
        def count(*_, name=name):
            counts[name] += 1
        model.get_submodule(name)[0].conv1.register_forward_hook(count)
    inputs = batch['inputs'].double()
    log, gradients = step(model, dict(batch, inputs=inputs))
    return log, gradients, dict(model.named_buffers()), counts


def assert_same(left, right):
    assert left.keys() == right.keys() and left
    for name, value in right.items():
        torch.testing.assert_close(left[name], value, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize('checkpointed', ['with_cp', 'mmengine'])
@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
@pytest.mark.parametrize('tap', TAPS)
def test_gradients_are_those_without_checkpointing(tiny_classifier, tiny_batch, tap, schedule, checkpointed):
    plain = run(tiny_classifier, tiny_batch(), None, tap, schedule=schedule)
    found = run(tiny_classifier, tiny_batch(), checkpointed, tap, schedule=schedule)
    assert found[0] == pytest.approx(plain[0], rel=1e-10)
    assert_same(found[1], plain[1])
    assert found[3]['backbone.layer4'] > plain[3]['backbone.layer4']  # it was recomputed


@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
@pytest.mark.parametrize('fields', [
    *(pytest.param(dict(batch_norm=policy), id=policy) for policy in POLICIES),
    pytest.param(dict(num_steps=2, radius=0.4), id='pgd'),
    pytest.param(dict(attack_losses=['loss']), id='attack_losses'),
    pytest.param(dict(replay=False), id='no-replay'),
])
def test_recomputed_norms_use_the_statistics_of_their_pass(tiny_classifier, tiny_batch, fields, schedule):
    # Without momentum running statistics stay: recomputing the clean pass updates them once more, as in stock models.
    plain = run(tiny_classifier, tiny_batch(), None, schedule=schedule, momentum=0.0, **fields)
    found = run(tiny_classifier, tiny_batch(), 'with_cp', schedule=schedule, momentum=0.0, **fields)
    assert found[0] == pytest.approx(plain[0], rel=1e-10)
    assert_same(found[1], plain[1])


@pytest.mark.parametrize('policy', ['batch', 'frozen'])
@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
def test_running_statistics_are_those_of_the_stock_model(tiny_classifier, tiny_batch, policy, schedule):
    """Stock checkpointing updates them twice, in the forward and when it is recomputed; passes of A-FAN add nothing."""
    stock = run(tiny_classifier, tiny_batch(), 'with_cp', tap=None)
    found = run(tiny_classifier, tiny_batch(), 'with_cp', batch_norm=policy, schedule=schedule)
    assert_same(found[2], stock[2])
    assert int(stock[2]['backbone.layer2.1.bn1.num_batches_tracked']) == 2


class Twice(nn.Module):
    """Calls a region that holds the tap twice."""

    def __init__(self):
        super().__init__()
        self.tap, self.after = nn.Linear(6, 6), nn.Linear(6, 6)

    def region(self, x):
        return self.after(self.tap(x).tanh()).tanh()

    def forward(self, x, checkpoint):
        for _ in range(2):
            x = checkpoint(self.region, x)
        return x


class Nested(Twice):
    """Checkpoints a region inside of a region after the tap."""

    def inner(self, x):
        return self.after(x.tanh()).tanh()

    def outer(self, x, checkpoint):
        return self.after(checkpoint(self.inner, x).tanh())

    def forward(self, x, checkpoint):
        return checkpoint(lambda x: self.outer(x, checkpoint), self.tap(x))


class StockNet(BaseModel):

    def __init__(self, part, checkpointed):
        super().__init__()
        self.stem, self.part, self.fc = nn.Linear(6, 6), part, nn.Linear(6, 2)
        self.checkpointed = checkpointed

    def forward(self, inputs, data_samples=None, mode='tensor'):
        checkpoint = torch_checkpoint.checkpoint if self.checkpointed else lambda function, x: function(x)
        logits = self.fc(self.part(self.stem(inputs), checkpoint))
        return {'loss': nn.functional.cross_entropy(logits, data_samples)} if mode == 'loss' else logits


@afan_model
class Net(StockNet):
    pass


@pytest.mark.parametrize('replay', [True, False])
@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
@pytest.mark.parametrize('part', [Twice, Nested])
def test_regions_called_twice_or_nested(part, schedule, replay):
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = Net(part(), checkpointed, afan=afan_of('part.tap', schedule=schedule, replay=replay)).double()
        data = (torch.randn(4, 6, dtype=torch.float64), torch.randint(2, (4, )))
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        model.train_step(data, OptimWrapper(optimizer))
        found.append({n: p.detach().clone() for n, p in model.named_parameters()})
    assert_same(found[1], found[0])


class Stateful(Twice):
    """Keeps state that its numbers depend on: a counting buffer, a counting attribute, a spectral norm."""

    def __init__(self, tap_first, num_calls=1):
        super().__init__()
        self.tap_first, self.num_calls = tap_first, num_calls
        self.inner = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))
        self.counter = Counter()

    def region(self, x):
        return self.counter(self.inner(x).tanh())

    def forward(self, x, checkpoint):
        x = self.tap(x) if self.tap_first else x
        for _ in range(self.num_calls):
            x = checkpoint(self.region, x)
        return self.after(x if self.tap_first else self.tap(x))


class Counter(nn.Module):

    def __init__(self):
        super().__init__()
        self.register_buffer('calls', torch.zeros((), dtype=torch.long))
        self.number = 0

    def forward(self, x):
        x = x.sin() * (1 + 0.1 * self.calls + 0.01 * self.number)
        self.calls += 1
        self.number += 1  # after the last tensor that a backward needs
        return x


def train_stateful(checkpointed, tap_first=True, num_calls=1, off=False, stock=False, **fields):
    """Train three steps; return weights and state."""
    torch.manual_seed(0)
    part = Stateful(tap_first, num_calls)
    model = StockNet(part, checkpointed) if stock else Net(part, checkpointed, afan=afan_of('part.tap', **fields))
    model = model.double()
    if off:
        model.afan.controls.strength_scale = 0.0
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    for seed in range(3):
        torch.manual_seed(seed)
        model.train_step((torch.randn(4, 6, dtype=torch.float64), torch.randint(2, (4, ))), wrapper)
    return {**model.state_dict(), 'number': torch.tensor(part.counter.number)}


@pytest.mark.parametrize('tap_first, num_calls', [(True, 1), (True, 2), (False, 2)])
@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
@pytest.mark.parametrize('fields', [
    dict(), dict(num_steps=2, radius=0.4), dict(attack_losses=['loss']), dict(replay=False)], ids=str)
def test_recomputed_regions_find_the_state_of_their_forward_and_leave_it_alone(tap_first, num_calls, schedule, fields):
    plain, found = (train_stateful(c, tap_first, num_calls, schedule=schedule, **fields) for c in (False, True))
    assert_same(found, plain)
    assert int(plain['number']) == int(plain['part.counter.calls']) == 3 * num_calls


@pytest.mark.parametrize('num_calls', [1, 2])
def test_state_is_that_of_stock_checkpointing_while_afan_is_off(num_calls):
    """Which changes it once more when it recomputes, also in the first step, whose passes check the taps."""
    stock, found = (train_stateful(True, True, num_calls, off=not s, stock=s) for s in (True, False))
    assert_same(found, stock)  # two calls add up their gradients in another order where checkpointing is reentrant
    assert num_calls == 2 or all(torch.equal(found[name], stock[name]) for name in stock)
    assert int(stock['number']) == int(stock['part.counter.calls']) == 2 * 3 * num_calls


def test_regions_share_the_copies_of_what_does_not_change_between_them():
    model = nn.Sequential(Counter(), Counter())
    regions = Regions(model, None, protects=True)
    before = regions.read()
    model[0](torch.ones(1))
    after = regions.read()
    assert after['1', 'calls', 'buffer'] is before['1', 'calls', 'buffer']
    assert (int(before['0', 'calls', 'buffer'].value), int(after['0', 'calls', 'buffer'].value)) == (0, 1)
    with regions.restored(before):
        assert (int(model[0].calls), model[0].number) == (0, 0)
        model[0](torch.ones(1))
    assert (int(model[0].calls), model[0].number) == (1, 1)


def test_momentum_networks_are_no_state_of_a_region():
    """Their weights are what the graph of a pass has saved."""
    places = [('0', 'calls', 'buffer'), ('1', 'weight', 'values'), ('0', 'number', 'attribute')]
    found = Regions(nn.Sequential(Counter(), nn.Linear(2, 2)), places, protects=True).read()
    assert list(found) == [places[0], places[2]]


def test_torch_is_left_as_it_was(tiny_classifier, tiny_batch):
    before = dict(vars(torch_checkpoint))
    run(tiny_classifier, tiny_batch(), 'with_cp')
    assert dict(vars(torch_checkpoint)) == before


def test_stock_checkpointing_is_still_reentrant():
    """Where torch's default has changed, the swap in ``mmafan.replay.checkpointing`` is no longer needed."""
    weight = torch.ones(1, requires_grad=True)
    seen = []
    torch_checkpoint.checkpoint(lambda x: seen.append(torch.is_grad_enabled()) or x * 2, weight).sum().backward()
    assert seen == [False, True], 'torch.utils.checkpoint is non-reentrant by default now'
