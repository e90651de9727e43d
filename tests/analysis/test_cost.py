"""Theory on numbers computed by hand, the suffix's share on a clock that the test turns."""
from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmafan.analysis.arm import baseline_model
from mmafan.analysis.cost import StepCost, num_attack_passes, theoretical_cost
from mmafan.analysis.data import image_size_of, random_batches
from mmafan.analysis.timing import Clock, SuffixProbe, time_in_turn
from mmafan.config import TapConfig

FOUR = (0.25, 0.5, 0.75, 1.0)


@pytest.mark.parametrize('fields, expected', [
    (dict(), 1.6),  # 1 + tau
    (dict(strengths=FOUR), 3.4),  # 1 + 4 tau
    (dict(strengths=FOUR, strength_sampling='random'), 1.6),
    (dict(strengths=FOUR, strength_sampling='random', fraction=0.25), 1.15),
    (dict(num_steps=5), 3.2),  # 1 + tau + 4 alpha
    (dict(num_steps=5, fraction=0.5), 2.1),
    (dict(num_steps=2, random_start=True, radius=1.0), 2.4),  # the first step is not free
    (dict(num_steps=5, direction='random_sign'), 1.6),
    (dict(strengths=(0.5, 1.0), weight=(0.0, 1.0)), 1.6),
    (dict(weight=0.0, num_steps=3), 1.0),
])
def test_theory_by_hand(fields, expected):
    tap = TapConfig('m', 0.1, **fields)
    suffixes = dict(a=dict(share=0.6, attack_share=0.4))
    assert theoretical_cost(dict(a=tap), suffixes) == pytest.approx(expected)


def test_theory_adds_the_taps():
    taps = dict(a=TapConfig('m', 0.1), b=TapConfig('n', 0.1, num_steps=3))
    suffixes = dict(a=dict(share=0.75), b=dict(share=0.25, attack_share=0.125))
    assert theoretical_cost(taps, suffixes) == 1 + 0.75 + 0.25 + 2 * 0.125
    assert [num_attack_passes(t) for t in taps.values()] == [0, 2]


def test_ratios():
    cost = StepCost(dict(baseline=2.0, afan=3.0, published=4.5), {}, {}, 1.25,
                    dict(baseline=100, afan=110, published=150))
    assert cost.ratios == dict(afan_over_baseline=1.5, afan_over_theory=1.2,
                               published_over_baseline=2.25, published_over_afan=1.5,
                               afan_memory_over_baseline=1.1, published_memory_over_baseline=1.5)
    assert json.loads(json.dumps(cost.to_dict()))['theory'] == 1.25
    assert set(StepCost(dict(baseline=2.0, afan=3.0), {}, {}, 1.5).ratios) == {
        'afan_over_baseline', 'afan_over_theory'}


def test_marks_are_made_on_the_measured_device(monkeypatch):
    """Which need not be the current one, whose stream would show no time."""
    seen = []

    class Event:

        def __init__(self, enable_timing):
            seen.append(enable_timing)

        def record(self, stream):
            seen.append(stream)

    monkeypatch.setattr(torch.cuda, 'Event', Event)
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda device: seen.append(f'wait for {device}'))
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: f'stream of {device}')
    clock = Clock('cuda:1')
    clock.synchronize()
    clock.mark()
    assert seen == ['wait for cuda:1', True, 'stream of cuda:1']


class HandClock:
    """Shows the time that the modules below set."""
    now = 0.0

    def mark(self):
        return self.now

    def seconds(self, begin, end):
        return end - begin

    def synchronize(self):
        pass


class _Wait(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, clock, forward, backward):
        ctx.clock, ctx.backward_time = clock, backward
        clock.now += forward
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        ctx.clock.now += ctx.backward_time
        return gradient, None, None, None


class Wait(nn.Module):

    def __init__(self, clock, forward, backward):
        super().__init__()
        self.arguments = (clock, forward, backward)

    def forward(self, x):
        return _Wait.apply(x, *self.arguments)


def test_share_of_the_tail_is_what_lies_between_leaving_the_tap_and_coming_back():
    clock = HandClock()
    net = nn.Sequential(Wait(clock, 1, 2), Wait(clock, 3, 5), Wait(clock, 4, 7))
    x = torch.ones(2, requires_grad=True)

    def step():
        net(x).sum().backward()
        clock.now += 8  # the optimizer

    probe = SuffixProbe(net, dict(early='0', late='1', all='inputs'), clock)
    for _ in range(2):
        probe.run(step)
    assert probe.shares == dict(early=[19 / 30] * 2, late=[11 / 30] * 2, all=[1.0] * 2)
    assert not any(m._forward_hooks for m in net.modules())


def test_probe_says_which_tap_gets_no_gradient():
    clock = HandClock()
    net = nn.Sequential(Wait(clock, 1, 2))
    with pytest.raises(ValueError, match=r"afan\.taps\.a\.module must name .* got '0'"):
        SuffixProbe(net, dict(a='0'), clock).run(lambda: net(torch.ones(2)))


def test_steps_take_turns_and_the_warmup_does_not_count():
    clock, order = HandClock(), []

    def step_of(name, seconds):

        def step(data):
            order.append(name + data)
            clock.now += seconds if len(order) > 4 else 100

        return step

    rounds = time_in_turn(dict(a=step_of('a', 1), b=step_of('b', 2)), ['0', '1'], 3, 2, clock)
    assert order == ['a0', 'b0', 'b1', 'a1', 'a0', 'b0', 'b1', 'a1', 'a0', 'b0']
    assert rounds == dict(a=[1] * 3, b=[2] * 3)


def test_baseline_is_the_stock_model():
    afan = dict(taps=dict(a=dict(module='m', step_size=0.1)))
    cfg = Config(dict(model=dict(type='mmafan.AFANImageClassifier', head=dict(type='X'), afan=afan),
                      data_preprocessor=dict(num_classes=10)))
    model, fields = baseline_model(cfg)
    assert model == dict(type='ImageClassifier', head=dict(type='X'),
                         data_preprocessor=dict(num_classes=10))
    assert fields == afan and 'afan' in cfg.model


@pytest.mark.parametrize('model', [dict(type='ImageClassifier'), dict(type='mmafan.AFANNet'),
                                   dict(type='Net', afan=dict())])
def test_model_without_afan_is_refused(model):
    with pytest.raises(ValueError, match=f"model.type must be .* got '{model['type']}'"):
        baseline_model(Config(dict(model=model)))


@pytest.mark.parametrize('pipeline, size', [
    ([dict(type='RandomCrop', crop_size=32, padding=4), dict(type='PackInputs')], (32, 32)),
    ([dict(type='ResizeEdge', scale=256), dict(type='CenterCrop', crop_size=224)], (224, 224)),
    ([dict(type='RandomResizedCrop', scale=192)], (192, 192)),
    ([dict(type='Resize', scale=(64, 48))], (224, 224)),
    ([dict(type='RandomCrop', crop_size=(512, 1024))], (512, 1024)),
    (None, (224, 224)),
])
def test_image_size_of_a_pipeline(pipeline, size):
    assert image_size_of(dict(train_pipeline=pipeline)) == size


def test_random_batches_of_an_unknown_codebase():
    with pytest.raises(ValueError, match="'mmdet', 'mmseg'.*got 'mmrotate'; set the data_root"):
        random_batches(Config(dict(default_scope='mmrotate')), 1, 1)


def test_random_batches_for_detectors():
    cfg = Config(dict(default_scope='mmdet', model=dict(
        rpn_head=dict(type='RPNHead'), roi_head=dict(bbox_head=[dict(num_classes=5), dict(num_classes=5)]))))
    first, again = (random_batches(cfg, 2, 3, 64, seed=4) for _ in range(2))
    assert len(first) == 2 and len(first[0]['inputs']) == len(first[0]['data_samples']) == 3
    for batch, other in zip(first, again):
        for image, sample, twin in zip(batch['inputs'], batch['data_samples'], other['inputs']):
            boxes = sample.gt_instances.bboxes.tensor
            assert image.shape == (3, 64, 64) and image.dtype == torch.uint8 and torch.equal(image, twin)
            assert (boxes[:, :2] < boxes[:, 2:]).all() and boxes.min() >= 0 and boxes.max() <= 64
            assert sample.gt_instances.labels.max() < 5 and 'masks' not in sample.gt_instances
    assert not torch.equal(first[0]['inputs'][0], first[1]['inputs'][0])


@pytest.mark.parametrize('change', [
    dict(model=dict(roi_head=dict(bbox_head=dict(num_classes=5), mask_head=dict(type='FCNMaskHead')))),
    dict(train_dataloader=dict(dataset=dict(datasets=[dict(pipeline=[dict(type='LoadAnnotations', with_mask=True)])]))),
    dict(train_dataloader=dict(dataset=dict(pipeline=[dict(type='LoadPanopticAnnotations')])))])
def test_random_batches_have_masks_where_the_config_loads_some(change):
    cfg = Config(dict(dict(default_scope='mmdet', model=dict(bbox_head=dict(num_classes=5))), **change))
    [batch] = random_batches(cfg, 1, 2, 64)
    assert all(sample.gt_instances.masks.masks.any(axis=(1, 2)).all() for sample in batch['data_samples'])


def test_random_batches_for_segmentors():
    cfg = Config(dict(default_scope='mmseg', model=dict(decode_head=dict(num_classes=5))))
    [batch], [twin] = (random_batches(cfg, 1, 3, (64, 96), seed=4) for _ in range(2))
    for image, sample, other in zip(batch['inputs'], batch['data_samples'], twin['data_samples']):
        labels = sample.gt_sem_seg.data
        assert image.shape == (3, 64, 96) and image.dtype == torch.uint8 and labels.shape == (1, 64, 96)
        assert (labels[:, 0] == 255).all() and labels[:, 1:].max() < 5 and torch.equal(labels, other.gt_sem_seg.data)


def test_the_steps_of_a_round_draw_the_same_numbers():
    drawn = {'a': [], 'b': []}
    steps = {name: lambda _, name=name: drawn[name].append((random.random(), np.random.rand(), float(torch.rand(()))))
             for name in drawn}
    time_in_turn(steps, [None], 3, 1, Clock('cpu'))
    assert drawn['a'] == drawn['b'] and len(set(drawn['a'])) == 4
