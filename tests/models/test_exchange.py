"""Samples of a batch change places, to see whether it is known what belongs to each: once, and leaving no trace."""
from __future__ import annotations

import pytest
import torch
from mmengine.structures import BaseDataElement
from torch import nn

from mmafan.models.exchange import doubtful_arguments, same_loss
from mmafan.replay import Batch, PassKind, current_pass

from ..nets import Net, rows
from ..rule import build, train

HALF = dict(module='t', step_size=1e-13, fraction=0.5)


class Weighted(Net):
    """Each sample has a label, and each class, or each sample, a weight."""

    def forward(self, inputs, labels, weight, mode='tensor'):
        losses = nn.functional.cross_entropy(self.run(inputs), labels, reduction='none')
        return {'loss': (losses * weight[labels % len(weight)]).mean()}


class PerSample(Weighted):

    def forward(self, inputs, labels, weight, mode='tensor'):
        losses = nn.functional.cross_entropy(self.run(inputs), labels, reduction='none')
        return {'loss': (losses * weight).mean()}


class Restless(Weighted):
    """Has a dropout that is awake, one that is not, and others without anything to draw."""

    def __init__(self):
        super().__init__()
        self.c = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.Linear(6, 6))

    def train(self, mode=True):
        super().train(mode)
        self.c[1].eval()
        return self


def batch_of(size, num_weights):
    return rows(size, size), torch.arange(size) % 3, torch.arange(1., num_weights + 1)


def test_two_samples_are_enough_to_see_that_weights_belong_to_classes():
    with pytest.raises(ValueError, match=r"fraction must be 1\.0 .* got 0\.5: .* which rows of '1', '2' belong to"):
        train(build(Weighted, taps=dict(s=HALF)), lambda _: batch_of(2, 2), 1)


def test_a_batch_of_one_sample_proves_nothing_and_waits_for_a_larger_one():
    model = build(Weighted, taps=dict(s=HALF))
    train(model, lambda _: batch_of(1, 3), 2)
    assert model.afan.facts is None and model.afan.num_waits == 2
    with pytest.raises(ValueError, match=r"fraction must be 1\.0 .* got 0\.5: .* which rows of '1', '2' belong to"):
        train(model, lambda _: batch_of(3, 3), 1)


@pytest.mark.parametrize('size', [2, 3])
@pytest.mark.parametrize('taps', [dict(s=HALF), dict(s=HALF, r=dict(HALF, module='a'))], ids=['one tap', 'two taps'])
def test_what_belongs_to_a_sample_is_known_from_then_on(size, taps):
    """Two taps find the same. A table that has as many rows as samples later on is still one of other things."""
    model = build(Weighted, taps=taps)
    train(model, lambda _: batch_of(size, 5), 1)
    assert model.afan.per_sample == {(0, ), (1, )}
    model = build(PerSample, taps=taps)
    train(model, lambda _: batch_of(size, size), 1)
    assert model.afan.per_sample == {(0, ), (1, ), (2, )}


def test_one_sample_tells_nothing():
    model = build(Weighted, taps=dict(s=HALF))
    train(model, lambda _: batch_of(1, 1), 1)
    assert model.afan.per_sample is None


def test_all_samples_need_no_such_passes():
    for fraction, expected in ((0.5, 2), (1.0, 0)):
        model, kinds = build(Weighted, taps=dict(s=dict(HALF, fraction=fraction))), []
        model.a.register_forward_hook(lambda *_: kinds.append(current_pass().kind))
        model.c.register_forward_hook(lambda *_: kinds.append(current_pass().kind))
        train(model, lambda _: batch_of(4, 5), 1)
        base = kinds.count(PassKind.CHECK) - expected
        assert base == 1 and kinds.count(PassKind.CLEAN) == 2, fraction


def test_only_what_draws_numbers_sleeps_meanwhile():
    model, seen = build(Restless, taps=dict(s=HALF)), []
    before = {name: module.training for name, module in model.named_modules()}
    assert before['c.0'] and not before['c.1'] and before['c.2']

    def look(*_):
        asleep = {name for name, module in model.named_modules() if before[name] and not module.training}
        seen.append((current_pass().kind, asleep - {'data_preprocessor'}))

    model.c.register_forward_hook(look)
    train(model, lambda _: batch_of(4, 5), 1)
    assert (PassKind.CHECK, {'c.0'}) in seen
    assert {name for _, asleep in seen for name in asleep} == {'c.0'}
    assert {name: module.training for name, module in model.named_modules()} == before


@pytest.mark.parametrize('value, is_known', [
    (2, True), (0.5, True), ('train', True), (True, True), (None, True), (torch.ones(3), False), ({}, False),
    ([BaseDataElement()] * 3, True), ((BaseDataElement(), ) * 3, True), ([BaseDataElement()] * 2, False),
    ([BaseDataElement()] * 4, False), (['a', 'b', 'c'], False), ([BaseDataElement(), 'b', 'c'], False)],
    ids=lambda v: str(v)[:20].partition('\n')[0])
def test_lists_of_data_elements_are_known_and_so_is_what_has_no_rows(value, is_known):
    for inputs in (torch.ones(3), torch.ones(3, 2)):
        assert doubtful_arguments(Batch((inputs, value), {})) == ([] if is_known else ['1'])
        named = Batch((), dict(value=value, inputs=inputs), lambda inputs: None)
        assert doubtful_arguments(named) == ([] if is_known else ['value'])


def test_equal_losses_are_the_same_with_any_tolerance():
    for loss in (0.0, 1.5, -2.0):
        assert same_loss(loss, loss, [torch.zeros(1)], 0.0) and not same_loss(loss + 1e-9, loss, [torch.zeros(1)], 0.0)
    assert same_loss(-100.01, -100.0, [], 1e-3) and not same_loss(-100.2, -100.0, [], 1e-3)
    assert same_loss(9e-6, 0.0, [], 1e-3) and not same_loss(1.1e-5, 0.0, [], 1e-3)
