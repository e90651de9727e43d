"""What changes in the middle of a training is decided anew: losses, branches, taps, and what is frozen."""
from __future__ import annotations

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from ..rule import Plain, batch_of, by_part, gradients, ratios, tapped
from ..training import record_warnings

SCHEDULES = pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])


class Growing(Plain):
    """Losses before the tap and after it come later than the first batch."""
    epoch = 0

    def build(self):
        super().build()
        self.aux = nn.Linear(4, 2)

    def losses(self, inputs, data_samples):
        x = self.stem(inputs)
        losses = dict(loss_a=self.classify(self.mid(x), data_samples))
        if self.epoch == 1:
            losses['loss_early'] = nn.functional.cross_entropy(self.aux(x.mean((2, 3))), data_samples)
            losses['loss_late'] = self.head.weight.square().sum() * self.mid(x).mean()
        return losses


@SCHEDULES
def test_a_loss_of_a_later_epoch_is_decided_when_it_comes(schedule):
    model, stock = tapped(Growing, afan=dict(schedule=schedule)), Growing()
    ratios(stock, model, batch_of())
    model.epoch = stock.epoch = 1
    for _ in range(2):
        found = by_part(ratios(stock, model, batch_of()))
        log = gradients(model, batch_of())[1]
        assert 'adv_t_0.loss_early' not in log and 'adv_t_0.loss_late' in log
        assert found == dict(stem=1, mid=found['mid'], head=2, aux=1)


@pytest.mark.parametrize('fields', [dict(losses=['loss_late']), dict(losses=['loss_*', 'loss_late']),
                                    dict(attack_losses=['loss_late'])], ids=lambda f: '-'.join(f))
def test_a_tap_may_name_a_loss_of_a_later_epoch(fields):
    model, stock = tapped(Growing, step_size=0.1, **fields), Growing()
    with record_warnings() as warnings:
        for epoch in (0, 0, 1, 1):
            model.epoch = stock.epoch = epoch
            log = gradients(model, batch_of())[1]
            assert ('adv_t_0.loss_late' in log) is (epoch == 1)
            assert ('adv_t_0.loss_a' in log) is (fields.get('losses') != ['loss_late'])
            assert 'adv_t_0.loss_early' not in log
    assert len(warnings) == 1 and "names 'loss_late', which is not among the losses ['loss_a'] so far" in warnings[0]
    with pytest.raises(ValueError, match="afan.taps.t.losses names 'loss_bbox', but the losses of the model are"):
        gradients(tapped(Growing, losses=['loss_bbox']), batch_of())


class Beside(Plain):
    """From the second epoch on a module runs before the tap, past which its result comes to the loss."""
    epoch = 0

    def build(self):
        super().build()
        self.side = nn.Sequential(nn.Conv2d(3, 4, 1))

    def losses(self, inputs, data_samples):
        side = self.side(inputs) if self.epoch else 0
        return dict(loss_a=self.classify(self.mid(self.stem(inputs)) + side, data_samples))


@SCHEDULES
def test_a_module_that_runs_before_the_tap_in_a_later_epoch_replays(schedule):
    model, stock, counts = tapped(Beside, afan=dict(schedule=schedule)), Beside(), []
    for epoch in (0, 1, 1):
        model.epoch = stock.epoch = epoch
        found = by_part(ratios(stock, model, batch_of()))
        assert found == dict(stem=1, mid=1, head=2, **(dict(side=1) if epoch else {}))
    model.side[0].register_forward_hook(lambda *_: counts.append(1))
    gradients(model, batch_of())
    assert len(counts) == 1


class Branching(Plain):
    """Either of two modules runs, by the sign of the batch."""

    def build(self):
        super().build()
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def losses(self, inputs, data_samples):
        x = self.mid(self.stem(inputs))
        if inputs.mean() > 0:
            return dict(loss_a=self.classify(self.left(x), data_samples))
        return dict(loss_a=self.classify(self.right(x), data_samples), loss_right=x.square().mean())


def signed(sign, seed=0):
    batch = batch_of(seed=seed)
    return dict(batch, inputs=batch['inputs'].abs() * sign)


@pytest.mark.parametrize('afan', [{}, dict(schedule='single_graph'), dict(replay=False)], ids=lambda v: '-'.join(v))
def test_a_tap_in_a_branch_waits_for_a_batch_that_takes_it(afan):
    model = tapped(Branching, 'right', afan=dict(afan, clean_weight=1.0))
    with record_warnings() as warnings:
        for number, sign in enumerate((1, 1, -1, 1, -1, -1)):
            found = by_part(ratios(Branching, model, signed(sign, number)))
            branch = dict(left=1) if sign > 0 else dict(right=1)
            assert found == dict(stem=1, mid=1, head=2 if sign < 0 else 1, **branch)
    assert sum("'right' has not been reached" in text for text in warnings) == 1
    assert model.afan.facts.proven == {'t'}


def test_a_tap_that_no_code_reads_is_refused_at_once():

    class Unused(Growing):

        def build(self):
            super().build()
            self.unused = nn.Conv2d(4, 4, 1)

    with pytest.raises(ValueError, match="afan.taps.t.module must .* 'unused' never ran"):
        ratios(Growing, tapped(Unused, 'unused'), batch_of())


# ---------------------------------------------------------------- what is frozen
class Net(Plain):

    def losses(self, inputs, data_samples):
        return dict(loss_a=self.classify(self.mid(self.stem(inputs)), data_samples))


def freeze(model, frozen=True, *names):
    for name in names or ('stem', 'mid'):
        getattr(model, name).requires_grad_(not frozen)
    return model


@SCHEDULES
def test_what_is_frozen_while_a_fan_is_off_is_checked_when_it_is_on(schedule):
    model, stock = freeze(tapped(Net, afan=dict(schedule=schedule))), freeze(Net())
    model.afan.controls.strength_scale = 0.0
    with record_warnings() as warnings:
        assert by_part(ratios(stock, model, batch_of())) == dict(head=1)
    assert sum("'mid' returns a feature without gradient" in text for text in warnings) == 1
    freeze(model, False), freeze(stock, False)
    assert by_part(ratios(stock, model, batch_of())) == dict(stem=1, mid=1, head=1)
    model.afan.controls.strength_scale = 1.0
    assert by_part(ratios(stock, model, batch_of())) == dict(stem=1, mid=1, head=2)


def test_what_is_frozen_when_a_fan_begins_is_refused():
    model = freeze(tapped(Net))
    model.afan.controls.strength_scale = 0.0
    gradients(model, batch_of())
    model.afan.controls.strength_scale = 1.0
    with pytest.raises(ValueError, match='without gradient'):
        gradients(model, batch_of())


@SCHEDULES
def test_what_is_frozen_later_is_stock_from_then_on_and_told_once(schedule):
    model, stock = tapped(Net, afan=dict(schedule=schedule, clean_weight=0.5)), Net()
    assert by_part(ratios(stock, model, batch_of())) == dict(stem=0.5, mid=0.5, head=1.5)
    freeze(model), freeze(stock)
    with record_warnings() as warnings:
        for _ in range(3):
            assert by_part(ratios(stock, model, batch_of())) == dict(head=1)
    assert [text for text in warnings if 'no gradient any more' in text] == warnings and len(warnings) == 1
    freeze(model, False), freeze(stock, False)
    assert by_part(ratios(stock, model, batch_of())) == dict(stem=0.5, mid=0.5, head=1.5)


@SCHEDULES
@pytest.mark.parametrize('module, frozen', [('head', ()), ('mid', ('head', ))], ids=['logits', 'adapters'])
def test_a_tap_that_nothing_trains_after_is_refused(schedule, module, frozen):
    model = tapped(Net, module, dict(schedule=schedule, clean_weight=0.5))
    if frozen:
        freeze(model, True, *frozen)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match='something that trains after it, but nothing after') as error:
        model.train_step(batch_of(), OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    assert str(error.value).startswith('afan.taps.t.module must name') and '\n' not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@SCHEDULES
def test_what_trains_no_more_after_the_tap_is_told_once(schedule):
    model, stock = tapped(Net, afan=dict(schedule=schedule)), Net()
    gradients(model, batch_of())
    freeze(model, True, 'head'), freeze(stock, True, 'head')
    with record_warnings() as warnings:
        for _ in range(2):
            assert by_part(ratios(stock, model, batch_of())) == dict(stem=1, mid=1)
    assert len(warnings) == 1 and "nothing that trains is left after 'mid'" in warnings[0]


@SCHEDULES
def test_a_step_that_does_not_come_to_the_tap_keeps_the_weight_of_the_clean_losses(schedule):
    """Only where the taps have lost their gradient is it the stock step again."""
    model = tapped(Branching, 'right', afan=dict(schedule=schedule, clean_weight=0.5))
    for number, (sign, head) in enumerate(((-1, 1.5), (1, 0.5), (-1, 1.5))):
        found = by_part(ratios(Branching, model, signed(sign, number)))
        assert found['head'] == head and found['stem'] == 0.5


class Again(Plain):
    """From the second epoch on the tap runs twice, and then a second loss comes from it; a third one never does."""
    epoch = 0

    def build(self):
        super().build()
        self.aux, self.other = nn.Linear(4, 2), nn.Linear(4, 2)

    def losses(self, inputs, data_samples):
        x = self.stem(inputs)
        first = self.mid(x)
        second = self.mid(x.flip(3)) if self.epoch else x
        return dict(loss_a=self.classify(first, data_samples),
                    loss_b=nn.functional.cross_entropy(self.aux(second.mean((2, 3))), data_samples),
                    loss_c=nn.functional.cross_entropy(self.other(x.mean((2, 3))), data_samples))


@SCHEDULES
def test_what_a_loss_comes_from_is_found_anew_where_the_tap_runs_another_number_of_times(schedule):
    model, stock = tapped(Again, afan=dict(schedule=schedule)), Again()
    for epoch, names in ((0, 'a'), (1, 'ab'), (1, 'ab'), (0, 'a')):
        model.epoch = stock.epoch = epoch
        found = by_part(ratios(stock, model, batch_of()))
        assert found == dict(stem=1, mid=1, head=2, aux=1 + epoch, other=1)
        log = gradients(model, batch_of())[1]
        assert [name for name in 'abc' if f'adv_t_0.loss_{name}' in log] == list(names)
