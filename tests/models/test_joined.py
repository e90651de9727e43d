"""The joined schedule in training: what is refused, mixed precision, accumulation, and what waits between steps."""
from __future__ import annotations

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmafan.config import AFANConfig
from mmafan.models.joined import check_kept_losses

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


class Leaving(Plain):
    """A part after the tap leaves a loss of its own in an attribute; from the third step on it has another loss."""

    class Part(nn.Conv2d):

        def forward(self, x):
            x = super().forward(x)
            self.own = x.square().mean((1, 2, 3)).std()
            return x

    def build(self):
        super().build()
        self.late, self.number = self.Part(4, 4, 1), 0

    def losses(self, inputs, data_samples):
        self.number += 1
        x = self.stem(inputs)
        found = dict(loss=self.classify(self.late(self.mid(x).tanh()), data_samples), loss_own=self.late.own)
        return dict(found, loss_new=x.square().mean()) if self.number > 2 else found


def test_attributes_and_new_losses_are_those_of_each_pass():
    stock, model = build(Leaving), tapped(Leaving, afan=dict(schedule='joined'))
    found = [by_part(ratios(stock, model, batch_of())) for _ in range(4)]
    assert found[1:] == [dict(stem=1, mid=1, late=2, head=2)] * 3
