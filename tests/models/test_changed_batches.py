"""Every pass finds the batch as the clean one did, whatever a forward does to it."""
from __future__ import annotations

import copy
import dataclasses
from collections import deque, namedtuple

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from mmafan.replay.tree import Contents

from ..nets import Net, rows
from ..rule import assert_rule, build, train
from ..training import record_warnings

Pair = namedtuple('Pair', 'y other')


@dataclasses.dataclass(frozen=True)
class Frozen:
    y: torch.Tensor


class Slots:
    __slots__ = ('y', )


class Nested:
    pass


def in_slots(y):
    made = Slots()
    made.y = y
    return made


def nested(y):
    made = Nested()
    made.deep = dict(frozen=Frozen(y))
    made.itself = made
    return made


def counter(y):
    made = Nested()
    made.y = y
    return made


def take_first(items):
    y = items[0]
    del items[0]
    return y


def subtract(holder):
    holder.y.sub_(1)
    return holder.y


def replace_attribute(holder):
    holder.y = holder.y - 1
    return holder.y


def through_data(y):
    y.data.mul_(3)
    return y


def through_numpy(y):
    y.numpy()[...] += 1
    return y


def minus(y):
    y -= 1
    return y


def polygons(arrays):
    arrays[0] *= 2
    arrays.append(arrays[0])
    return torch.as_tensor(np.asarray(arrays[0]))


def used_up(holder):
    holder.added = len(vars(holder))
    return holder.y + holder.added


def with_instances(y):
    made = InstanceData()
    made.y = y
    return made


WAYS = dict(
    minus=(lambda y: y, minus),
    divide=(lambda y: y, lambda y: y.div_(10)),
    data=(lambda y: y, through_data),
    memory=(lambda y: y, through_numpy),
    resize=(lambda y: y.repeat(2, 1), lambda y: y.resize_(4, 6)),
    pop=(lambda y: dict(y=y), lambda d: d.pop('y')),
    replaced=(lambda y: dict(y=y), lambda d: d.update(y=d['y'] + 1) or d['y']),
    added=(lambda y: dict(y=y), lambda d: d['y'] + (d.setdefault('n', len(d)) if 'n' not in d else 7)),
    list=(lambda y: [y, y], take_first),
    deque=(lambda y: deque([y], maxlen=3), lambda d: d.popleft()),
    set=(lambda y: Pair(y, {1}), lambda p: p.y + (p.other.pop() if p.other else 5)),
    namedtuple=(lambda y: Pair(y, None), subtract),
    frozen=(Frozen, subtract),
    slots=(in_slots, replace_attribute),
    nested=(nested, lambda n: subtract(n.deep['frozen'])),
    instances=(with_instances, replace_attribute),
    counted=(counter, used_up),
    polygons=(lambda y: [y.numpy().copy()], polygons),
    objects=(lambda y: np.array([Frozen(y)], dtype=object), lambda a: subtract(a[0])))


def changing(take):

    class Changing(Net):

        def forward(self, inputs, target=None, mode='tensor'):
            target = take(target)
            return {'loss': (self.run(inputs) - target.detach()).square().mean()}

    return Changing


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('replay', [True, False], ids=['replay', 'rerun'])
def test_a_forward_may_change_its_batch(way, replay):
    make, take = WAYS[way]
    assert_rule(changing(take), lambda number: (rows(number), make(rows(number + 9))), steps=2, replay=replay)


@pytest.mark.parametrize('replay', [True, False], ids=['replay', 'rerun'])
@pytest.mark.parametrize('tap', ['t', 'inputs'])
def test_the_inputs_may_be_changed_too(replay, tap):

    class Normalizing(Net):

        def forward(self, inputs, target, mode='tensor'):
            scaled = inputs.mul_(0.5) if not inputs.requires_grad else inputs.clone().mul_(0.5)
            return {'loss': (self.run(scaled) - scaled - target).square().mean()}

    before = () if tap == 'inputs' else ('a.', 't.')
    assert_rule(Normalizing, lambda number: (rows(number), rows(number + 9)), before, tap, steps=2, replay=replay)


def test_the_caller_keeps_its_batch():
    model = build(changing(WAYS['minus'][1]), taps=dict(s=dict(module='t', step_size=0.1, strengths=(0.5, 1.0))))
    for _ in range(2):
        given = rows(0), rows(9)
        kept = copy.deepcopy(given)
        train(model, lambda _: given, 1)
        assert all(map(torch.equal, given, kept))


def test_a_forward_that_changes_nothing_gets_the_batch_itself():
    seen = []

    class Looking(Net):

        def forward(self, inputs, target, mode='tensor'):
            seen.append(target)
            return {'loss': (self.run(inputs) - target['y']).square().mean()}

    model = build(Looking, taps=dict(s=dict(module='t', step_size=0.1)))
    train(model, lambda _: (rows(0), dict(y=rows(9))), 1)
    seen.clear()
    train(model, lambda _: (rows(0), dict(y=rows(9))), 1)
    assert len(seen) == 2 and seen[0] is seen[1]


def late(take):
    """Changes its batch from the second step on."""

    class Late(Net):

        def forward(self, inputs, data, mode='tensor'):
            y = take(data[-1]) if len(data) > 1 else data[0]['y']
            return {'loss': (self.run(inputs) - y).square().mean()}

    return Late


def late_batch(number):
    return rows(number), [dict(y=rows(number + 9))] * (1 if number == 0 else 2)


@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
def test_containers_that_a_later_step_changes_are_put_back(schedule):
    with record_warnings() as warnings:
        assert_rule(late(lambda d: d.pop('y')), late_batch, schedules=(schedule, ), steps=4)
    assert len([text for text in warnings if 'changes its batch in place' in text]) == 1


@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
def test_a_step_whose_targets_are_gone_has_no_adversarial_pass(schedule):
    cls = late(lambda d: d['y'].sub_(1))
    stock = train(build(cls), late_batch, 4)
    taps = dict(s=dict(module='t', step_size=1e-13))
    with record_warnings() as warnings:
        found = train(build(cls, taps=taps, schedule=schedule), late_batch, 4)
    assert len([text for text in warnings if 'has no adversarial pass' in text]) == 1
    shares = [1 if step == 1 else 2 for step in range(4)]
    for share, (gradients, log), (expected, stock_log) in zip(shares, found, stock):
        torch.testing.assert_close(gradients['c.weight'], share * expected['c.weight'])
        torch.testing.assert_close(gradients['a.weight'], expected['a.weight'])
        assert log['loss' if share == 2 else 'clean_loss'] == pytest.approx(share * stock_log['loss'])


def test_a_change_deep_in_a_long_list_of_samples_is_found_within_some_steps():
    """A step looks at some samples of a large batch, each time at others."""

    class Long(Net):

        def forward(self, inputs, samples, mode='tensor'):
            y = torch.stack([sample.pop('y') if 'late' in sample else sample['y'] for sample in samples])
            return {'loss': (self.run(inputs) - y).square().mean()}

    def batch(number):
        samples = [dict(y=row) for row in rows(number + 9, 40)]
        if number == 1:
            samples[30]['late'] = True
        return rows(number, 40), samples

    model = build(Long, taps=dict(s=dict(module='t', step_size=0.1)))
    with record_warnings() as warnings:
        train(model, batch, 2)
    assert any('changes its batch in place' in text for text in warnings)


@pytest.mark.parametrize('change', [lambda kept: kept.pop(), lambda kept: kept.append(0), lambda kept: kept.clear(),
                                    lambda kept: kept.__setitem__(0, 5)], ids=['pop', 'append', 'clear', 'set'])
def test_a_list_is_put_back_however_it_has_changed(change):
    kept = [1, 2, 3]
    contents = Contents(dict(kept=kept), 0)
    assert contents.put_back() is None
    change(kept)
    assert contents.put_back() is True and kept == [1, 2, 3]


@pytest.mark.parametrize('size, is_kept', [(8, True), (2**16, True), (2**16 + 1, False)])
def test_arrays_are_put_back_but_for_large_ones_of_which_no_copy_is_kept(size, is_kept):
    array = np.zeros(size, np.uint8)
    contents = Contents([array], 0)
    array[-1] = 1
    assert contents.put_back() is (True if is_kept else None) and array[-1] == 1 - is_kept


def test_a_changed_tensor_cannot_be_put_back():
    tensor = torch.zeros(2)
    contents = Contents([tensor], 0)
    assert contents.put_back() is None
    tensor.add_(1)
    assert contents.put_back() is False
