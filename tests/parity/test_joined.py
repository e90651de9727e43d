"""The joined schedule: what two steps descend together is the exact schedule's gradient, to 1e-10, in float64."""
from __future__ import annotations

import copy

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmafan.models import joined
from mmafan.models.attack import Suffix
from mmafan.replay import TapCapture
from mmafan.replay.tree import map_tensors

from .test_gradients import SMALL, assert_same, step_gradients

pytest.importorskip('mmpretrain', reason='mmpretrain is not installed')
pytest.importorskip('mmseg', reason='mmseg is not installed')
pytest.importorskip('mmdet', reason='mmdet is not installed')
pytest.importorskip('mmcv.ops', reason='detectors need mmcv with its operators')

from mmpretrain.structures import DataSample  # noqa: E402

from .. import detectors, segmentors  # noqa: E402
from .test_detector_gradients import float64, stock_code_without_float64  # noqa: E402, F401

# A segmentor whose decoder reads what comes before the tap; a detector whose neck does.
TAPS = dict(classifier='backbone.layer1', segmentor='backbone.layer3', detector='backbone.layer3')
STRENGTHS = dict(step_size=0.02, strengths=(0.5, 1.0), reinject=(False, True), weight=(0.3, 0.2))


def make(task, schedule, batch_norm='batch', recipe=None, **taps):
    recipe = STRENGTHS if recipe is None else recipe
    taps = taps or dict(t=dict(dict(module=TAPS[task]), **recipe))
    afan = dict(taps=taps, clean_weight=0.8, schedule=schedule, batch_norm=batch_norm)
    if task == 'segmentor':  # without dropout, whose draws in a joined pass are others
        heads = {name: dict(dropout_ratio=0.0) for name in ('decode_head', 'auxiliary_head')}
        model = segmentors.build('deeplabv3plus', afan, double=True, **heads)
    elif task == 'detector':
        model = detectors.build('faster_rcnn', afan, double=True)
    else:
        init_default_scope('mmpretrain')
        torch.manual_seed(1)
        model = MODELS.build(dict(type='mmafan.AFANImageClassifier', **copy.deepcopy(SMALL), afan=afan)).double()
    for module in model.train().modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.0  # the same statistics in every step
    return model


def batch_of(task, seed, count=4, size=64):
    if task == 'segmentor':
        return segmentors.make_batch(count, (size, size), seed, torch.float64)
    if task == 'detector':
        boxes = tuple(1 + (seed + k) % 3 for k in range(count))
        return detectors.make_batch(dtype=torch.float64, masks=False, num_images=count, num_boxes=boxes, seed=seed)
    inputs = torch.randn(count, 3, size // 2, size // 2, generator=torch.Generator().manual_seed(seed))
    return dict(inputs=inputs.double(), data_samples=[DataSample().set_gt_label((seed + 3 * i) % 10)
                                                      for i in range(count)])


def gradients_of_steps(model, *batches):
    found = []
    for batch in batches:
        model.zero_grad()
        found.append(step_gradients(model, copy.deepcopy(batch)))
    return found


def expected_of(task, first, second, **fields):
    """Gradients of a step that joins what the first batch has left with the clean loss of the second one."""
    (exact, log), = gradients_of_steps(make(task, 'two_phase', **fields), first)
    (clean, _), = gradients_of_steps(make(task, 'joined', **fields), first)
    (other, clean_log), = gradients_of_steps(make(task, 'joined', **fields), second)
    zero = {name: torch.zeros_like(value) for name, value in exact.items()}
    total = {name: other.get(name, zero[name]) + exact[name] - clean.get(name, zero[name]) for name in exact}
    terms = {name: value for name, value in log.items() if name.startswith('adv_')}
    return total, {**{k: v for k, v in clean_log.items() if k != 'loss'}, **terms}


@pytest.mark.parametrize('task, fields', [
    ('classifier', {}),
    ('classifier', dict(batch_norm='frozen')),
    ('classifier', dict(batch_norm='separate')),
    ('classifier', dict(batch_norm='shared')),
    ('classifier', dict(recipe=dict(STRENGTHS, fraction=0.5))),
    ('classifier', dict(recipe=dict(step_unit='std', step_size=0.2, norm='l2'))),
    ('classifier', dict(a=dict(module='backbone.layer1', step_size=0.02), b=dict(module='neck', step_size=0.1))),
    ('segmentor', {}),
    ('segmentor', dict(recipe=dict(STRENGTHS, fraction=0.5))),
    ('detector', {}),
    ('detector', dict(recipe=dict(STRENGTHS, fraction=0.5))),
], ids=str)
def test_two_steps_descend_what_the_exact_schedule_descends(task, fields):
    first, second = batch_of(task, 1), batch_of(task, 2, 3)
    expected, terms = expected_of(task, first, second, **fields)
    model = make(task, 'joined', **fields)
    _, (found, log) = gradients_of_steps(model, first, second)
    assert any(model.afan.waiting.meetings.joinable.values())
    assert_same(found, expected)
    assert {k: log[k] for k in terms} == pytest.approx(terms, rel=1e-7)


def wrong_samples(monkeypatch):
    """Let what waits have the targets of other samples."""
    taken = joined.JoinedStep._passes_of

    def passes_of(step, waiting):
        for suffix, _ in waiting:
            inputs, samples = suffix.batch.args
            suffix.batch.args = inputs, samples[1:] + samples[:1]
        return taken(step, waiting)

    monkeypatch.setattr(joined.JoinedStep, '_passes_of', passes_of)


def no_skip(monkeypatch):
    """Let nothing be carried of what comes before the tap."""
    stock = TapCapture.keep_rows

    def keep_rows(capture, chosen):
        stock(capture, chosen)
        capture.prefix = [r._replace(output=map_tensors(torch.zeros_like, r.output)) for r in capture.prefix]

    monkeypatch.setattr(TapCapture, 'keep_rows', keep_rows)


@pytest.mark.parametrize('task, sabotage', [('classifier', wrong_samples), ('segmentor', wrong_samples),
                                            ('segmentor', no_skip), ('detector', no_skip)])
def test_wrong_targets_and_a_skip_that_is_left_out_show(task, sabotage, monkeypatch):
    first, second = batch_of(task, 1), batch_of(task, 2, 3)
    expected, _ = expected_of(task, first, second)
    sabotage(monkeypatch)
    _, (found, _) = gradients_of_steps(make(task, 'joined'), first, second)
    with pytest.raises(AssertionError):
        assert_same(found, expected)


def test_modules_run_once_for_all_and_others_for_each():
    """The stages of the suffix run once a step; with images of another size each pass runs them by itself."""
    model, sizes = make('classifier', 'joined', recipe=dict(step_size=0.02)), []
    model.backbone.layer3[0].conv1.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    first, second, third = batch_of('classifier', 1), batch_of('classifier', 2, 3), batch_of('classifier', 3, 3, 32)
    expected, _ = expected_of('classifier', second, third, recipe=dict(step_size=0.02))
    gradients_of_steps(model, first, first)
    sizes.clear()
    _, (found, _) = gradients_of_steps(model, second, third)
    assert sizes == [7, 3, 3]
    assert_same(found, expected)


def test_every_weighs_the_steps_it_takes_part_in():
    """Over its steps the terms weigh what they do without it; clean losses keep their weight in between."""
    batch = batch_of('classifier', 1)
    recipe = dict(step_size=0.02, weight=0.3)
    (exact, _), = gradients_of_steps(make('classifier', 'two_phase', recipe=recipe), batch)
    steps = gradients_of_steps(make('classifier', 'auto', recipe=dict(recipe, every=3)), batch, batch, batch)
    total = {name: sum(gradients.get(name, torch.zeros_like(value)) for gradients, _ in steps) / 3
             for name, value in exact.items()}
    assert_same(total, exact)
    assert ['adv_t_0.loss' in log for _, log in steps] == [True, False, False]


def test_what_waits_is_of_the_chosen_samples_alone():
    model = make('segmentor', 'joined', recipe=dict(step_size=0.02, fraction=0.5))
    kept = []

    def losses(suffix, features, stock=Suffix.losses):
        kept.extend(len(t) for r in suffix.recording.captures['t'].prefix for t in [r.output]
                    if isinstance(t, torch.Tensor))
        kept.extend(t.numel() for t in suffix.recording.captures['t'].outputs)
        return stock(suffix, features)

    Suffix.losses, stock = losses, Suffix.losses
    try:
        gradients_of_steps(model, batch_of('segmentor', 1), batch_of('segmentor', 2))
    finally:
        Suffix.losses = stock
    assert set(kept) == {2, 0}
