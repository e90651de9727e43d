"""The joined schedule in training: what is refused, mixed precision, accumulation, and what waits between steps."""
from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmafan.config import AFANConfig
from mmafan.models import joined
from mmafan.models.joined import JoinedStep, check_kept_losses
from mmafan.models.tap_attack import stock_losses
from mmafan.replay import Batch, PassKind

from .. import rule
from ..half import Float16OptimWrapper
from ..rule import Plain, batch_of, build, by_part, ratios, tapped


def afan_of(schedule='joined', **tap):
    tap = dict(dict(module='backbone.layer1', step_size=0.1, step_unit='std'), **tap)
    return dict(taps=dict(s=tap), batch_norm='batch', schedule=schedule)


def train(model, batch, wrapper=None, count=1):
    wrapper = wrapper or OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.0))
    model.train()
    for _ in range(count):
        log = model.train_step(dict(batch, inputs=list(batch['inputs'])), wrapper)
    return log


@pytest.mark.parametrize('tap, field, value', [
    (dict(num_steps=2), 'num_steps', '2'), (dict(random_start=True, radius=0.1), 'random_start', 'True'),
    (dict(attack_losses=['loss']), 'attack_losses', r"\(\('loss',\),\)"), (dict(every=2), 'every', '2'),
])
def test_what_needs_another_gradient_is_refused(tap, field, value):
    sentence = rf"afan.taps.s.{field} must be .* where afan.schedule is 'joined'.*, got {value}"
    with pytest.raises(ValueError, match=sentence):
        AFANConfig.from_dict(afan_of(**tap))


@pytest.mark.parametrize('fields', [dict(replay=False), dict(learn_strengths={})])
def test_what_needs_this_step_is_refused(fields):
    with pytest.raises(ValueError, match=f"afan.{list(fields)[0]} must be .* where afan.schedule is 'joined'"):
        AFANConfig.from_dict(dict(afan_of(), **fields))


@pytest.mark.parametrize('every', [0, 1.5, True])
def test_every_counts_steps(every):
    with pytest.raises(ValueError, match='afan.taps.s.every must be an integer of at least 1'):
        AFANConfig.from_dict(afan_of('auto', every=every))


def test_losses_that_a_tap_leaves_out_are_refused():
    weight = torch.ones(1, requires_grad=True)
    losses = dict(loss_cls=weight * 1, loss_bbox=weight * 2, loss_rpn=weight * 3, acc=weight)
    config = AFANConfig.from_dict(afan_of(losses=['loss_cls']))
    with pytest.raises(ValueError, match=r"must keep every loss .*, got \['loss_cls'\], which .* \['loss_bbox'\]"):
        check_kept_losses(config, dict(s=['loss_rpn']), losses)
    check_kept_losses(AFANConfig.from_dict(afan_of(losses=['loss_cls', 'loss_bbox'])), dict(s=['loss_rpn']), losses)
    check_kept_losses(config, dict(s=['loss_rpn', 'loss_bbox']), losses)
    constant = dict(losses, loss_bbox=weight.detach())
    check_kept_losses(config, dict(s=['loss_rpn']), constant)
    with pytest.raises(ValueError, match=r"^afan\.taps\.s\.losses must keep .* is 'joined', got \['loss_cls'\], which "
                                         r"leaves out \['loss_bbox', 'loss_rpn'\]; add them, or use .* 'auto'$"):
        check_kept_losses(config, {}, losses)
    check_kept_losses(AFANConfig.from_dict(afan_of()), {}, losses)


def test_a_sample_waits_for_one_step(tiny_classifier, tiny_batch):
    model = tiny_classifier(afan=afan_of())
    assert [name for name in train(model, tiny_batch()) if name.startswith('adv_')] == []
    assert 'adv_s_0.loss' in train(model, tiny_batch())
    assert len(model.afan.waiting.attacks) == 1
    assert copy.deepcopy(model).afan.waiting.attacks == []  # nor does a checkpoint have them
    model.afan.controls.strength_scale = 0.0
    train(model, tiny_batch())
    assert model.afan.waiting.attacks == []


def test_a_fan_may_be_off_at_the_start_and_in_between(tiny_classifier, tiny_batch):
    """As under a hook with ``fit_threshold``, or with ``begin``; what waited before is not taken up again."""
    model, found = tiny_classifier(afan=afan_of()), []
    for scale in (0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0):
        model.afan.controls.strength_scale = scale
        found.append('adv_s_0.loss' in train(model, tiny_batch()))
    assert found == [False, False, False, True, False, False, True]


def test_without_a_backward_nothing_is_perturbed(tiny_classifier, tiny_batch):
    model, batch = tiny_classifier(afan=afan_of()).train(), tiny_batch()
    for _ in range(2):
        assert not [name for name in model.loss(**batch) if name.startswith('adv_')]


def test_a_batch_may_be_smaller_than_the_last_one(tiny_classifier, tiny_batch):
    model = tiny_classifier(afan=afan_of(fraction=0.5))
    train(model, tiny_batch())
    batch = tiny_batch()
    log = train(model, dict(inputs=batch['inputs'][:2], data_samples=batch['data_samples'][:2]))
    assert torch.isfinite(torch.tensor(float(log['adv_s_0.loss'])))


@pytest.mark.skipif(not hasattr(torch.amp, 'GradScaler'), reason='torch before 2.3 has no loss scale on the CPU')
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_a_loss_scale_may_change_while_samples_wait(tiny_classifier, tiny_batch, dtype):
    losses = []
    for scale in (64.0, 1024.0):
        model = tiny_classifier(afan=afan_of(step_size=0.2))
        wrapper = Float16OptimWrapper(1024.0, dtype, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
        train(model, tiny_batch(), wrapper)
        wrapper.loss_scaler.update(scale)
        losses.append(train(model, tiny_batch(), wrapper))
    assert all(model.afan.waiting.meetings.joinable[name] for name in ('backbone.layer2', 'neck', 'head'))
    assert float(losses[0]['adv_s_0.loss']) == pytest.approx(float(losses[1]['adv_s_0.loss']), rel=1e-6)
    assert float(losses[0]['adv_s_0.loss']) > float(losses[0]['clean_loss'])


def test_an_overflow_perturbs_no_sample(tiny_classifier, tiny_batch):
    model = tiny_classifier(afan=afan_of())
    train(model, tiny_batch())
    capture = model.afan.waiting.attacks[0][0].capture
    capture.gradients[0][0, 0, 0, 0] = float('inf')
    train(model, tiny_batch())
    assert model.afan.meters.pop_skipped_shares() == dict(s=1 / len(tiny_batch()['inputs']))


def test_accumulated_steps_are_the_sum_of_single_ones(tiny_classifier, tiny_batch):
    def gradients(counts, steps):
        model = tiny_classifier(afan=afan_of())
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.0
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.0), accumulative_counts=counts,
                               clip_grad=dict(max_norm=1e6))
        total = {}
        zero = wrapper.zero_grad

        def keep(*args, **kwargs):
            for name, parameter in model.named_parameters():
                total[name] = total.get(name, 0) + parameter.grad.clone()
            zero(*args, **kwargs)

        wrapper.zero_grad = keep
        train(model, tiny_batch(), wrapper, steps)
        return {name: value / (1 if counts > 1 else steps) for name, value in total.items()}

    once, each = gradients(3, 3), gradients(1, 3)
    torch.testing.assert_close(once, each, rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------- on plain layers, by hand
class Net(rule.Plain):

    def losses(self, inputs, data_samples):
        return dict(loss_a=self.classify(self.mid(self.stem(inputs)), data_samples))


class Tied(Net):
    """A parameter is used before the tap and after it."""

    def losses(self, inputs, data_samples):
        x = self.mid(self.stem(inputs) * self.head.weight.mean())
        return dict(loss_a=self.classify(x + self.stem.bias.sum(), data_samples))


class Counting(Net):
    """What it counts is part of its loss."""

    def build(self):
        super().build()
        self.register_buffer('count', torch.zeros(()))

    def losses(self, inputs, data_samples):
        x = self.mid(self.stem(inputs))
        self.count += 1
        return dict(loss_a=self.classify(x, data_samples))


def plain(schedule='joined', net=Net, **fields):
    tap = dict(dict(module='mid', step_size=0.1, strengths=(0.5, 1.0), weight=(0.25, 2.0)), **fields)
    return rule.build(net, taps=dict(t=tap), clean_weight=0.5, schedule=schedule)


@pytest.mark.parametrize('fields', [{}, dict(fraction=0.5), dict(net=Tied), dict(net=Counting)], ids=str)
def test_a_step_descends_its_clean_losses_and_what_has_waited(fields):
    """Without updates: the terms of a step are those that the exact schedule has one step before."""
    exact = rule.train(plain('two_phase', **fields), lambda number: rule.batch_of(seed=number), 3)
    stock = rule.train(rule.build(fields.get('net', Net)), lambda number: rule.batch_of(seed=number), 3)
    model = plain(**fields)
    found = rule.train(model, lambda number: rule.batch_of(seed=number), 3)
    for number, (gradients, log) in enumerate(found):
        clean = 0.5 * stock[number][1]['loss_a']
        assert log['loss_a'] == pytest.approx(clean, rel=1e-6)
        terms = {name: value for name, value in log.items() if name.startswith('adv_')}
        expected = {name: value for name, value in exact[number - 1][1].items() if name.startswith('adv_') and number}
        assert terms == pytest.approx(expected, rel=1e-6)
        assert log['loss'] == pytest.approx(clean + sum(terms.values()), rel=1e-6)
        for name, gradient in gradients.items():
            right = 0.5 * stock[number][0][name]
            if number:
                right = right + exact[number - 1][0][name] - 0.5 * stock[number - 1][0][name]
            assert torch.allclose(gradient, right, rtol=1e-5, atol=1e-9), (number, name)
    assert model.afan.controls.iteration == 3 and model.afan.meters.stepped
    count = 2 if 'fraction' in fields else 4
    assert model.afan.meters.num_samples == dict(t=2 * count)
    assert float(getattr(model, 'count', 3)) == 3


def test_nothing_waits_of_a_step_that_proves_nothing():
    model = plain()
    model.afan.codebase = SimpleNamespace(watched_calls=lambda m: (), lacks_targets=lambda batch: True)
    for _ in range(2):
        rule.train(model, lambda number: rule.batch_of(), 1)
        assert model.afan.facts is None and model.afan.waiting.attacks == []


def test_the_parts_are_the_clean_losses_each_waiting_pass_and_an_end():
    model = plain()
    for number, passes in enumerate((0, 2)):
        batch = Batch.of(rule.batch_of(seed=number), model.forward)
        parts, total = [], 0.0
        for part in JoinedStep(model, batch, lambda b: stock_losses(model, b)).parts():
            losses = part.losses()
            parts.append((list(losses), part.kind, part.is_last))
            total = total + sum(losses.values())
        total.backward()
        terms = [([f'adv_t_{k}.loss_a'], PassKind.ADVERSARIAL, False) for k in range(passes)]
        assert parts == [(['loss_a'], PassKind.CLEAN, False), *terms, ([], PassKind.CLEAN, True)]


def test_what_is_frozen_keeps_the_stock_weight_once_nothing_waits():
    model = plain()
    batch = rule.batch_of()
    rule.train(model, lambda _: batch, 2)
    for part in (model.stem, model.mid):
        part.requires_grad_(False)
    stock = rule.train(rule.build(Net), lambda _: batch, 1)[0][1]['loss_a']
    first, second = (log for _, log in rule.train(model, lambda _: batch, 2))
    assert first['loss_a'] == pytest.approx(0.5 * stock) and 'adv_t_1.loss_a' in first
    assert second == pytest.approx(dict(loss=stock, loss_a=stock))


def test_a_copy_knows_what_meets_and_has_nothing_that_waits():
    model = plain()
    rule.train(model, lambda number: rule.batch_of(seed=number), 2)
    made = copy.deepcopy(model).afan.waiting
    assert made.attacks == [] and len(model.afan.waiting.attacks) == 1
    assert made.meetings.joinable == model.afan.waiting.meetings.joinable != {}


@pytest.mark.parametrize('norm, training, distributed, waits', [
    (torch.nn.SyncBatchNorm, True, True, True), (torch.nn.SyncBatchNorm, False, True, False),
    (torch.nn.SyncBatchNorm, True, False, False), (torch.nn.BatchNorm2d, True, True, False)])
def test_processes_agree_on_what_runs_once_where_their_norms_wait(monkeypatch, norm, training, distributed, waits):
    monkeypatch.setattr(joined, 'is_distributed', lambda: distributed)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), norm(1)).train(training)
    assert joined._norms_wait(model) is waits
    asked = []
    monkeypatch.setattr(joined, 'all_agree', lambda flags: (asked.append(flags), [False])[1])
    assert joined._agreed(True) is False and asked == [[True]]


@pytest.mark.parametrize('waits', [True, False])
def test_they_are_asked_in_a_step_whose_norms_wait_alone(monkeypatch, waits):
    asked = []
    monkeypatch.setattr(joined, '_norms_wait', lambda model: waits)
    monkeypatch.setattr(joined, 'all_agree', lambda flags: (asked.append(flags), flags)[1])
    (_, _), (_, log) = rule.train(plain(), lambda number: rule.batch_of(seed=number), 2)
    assert 'adv_t_1.loss_a' in log and bool(asked) is waits


class Leaving(Plain):
    """A part after the tap leaves a loss of its own in an attribute; from the third step on it has another loss."""

    class Part(nn.Conv2d):

        def forward(self, x):
            x = super().forward(x)
            self.own = x.square().mean((1, 2, 3)).std()
            return x

    def build(self):
        super().build()
        self.late, self.side, self.number = self.Part(4, 4, 1), nn.Linear(2, 2), 0

    def losses(self, inputs, data_samples):
        self.number += 1
        x = self.stem(inputs)
        found = dict(loss=self.classify(self.late(self.mid(x).tanh()), data_samples), loss_own=self.late.own)
        if self.number > 2:  # neither depends on the tap
            found.update(loss_new=x.square().mean(), loss_side=self.side.weight.square().sum())
        return found


def test_attributes_and_new_losses_are_those_of_each_pass():
    stock, model = build(Leaving), tapped(Leaving, afan=dict(schedule='joined'))
    found = [by_part(ratios(stock, model, batch_of())) for _ in range(4)]
    assert found[1:] == [dict(stem=1, mid=1, late=2, head=2), *[dict(stem=1, mid=1, late=2, head=2, side=1)] * 2]
    model = tapped(Leaving, afan=dict(schedule='joined'))
    for number in range(1, 5):
        log = rule.gradients(model, batch_of())[1]
        assert ('loss_new' in log) == (number > 2) and not {'adv_t_0.loss_new', 'adv_t_0.loss_side'} & set(log)
        assert ('adv_t_0.loss_own' in log) == (number > 1)
