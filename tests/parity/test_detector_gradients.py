"""Detectors: two-phase, single-graph and the naive reference give the same gradients, in float64."""
from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip('mmdet', reason='mmdet is not installed')
pytest.importorskip('mmcv.ops', reason='detectors need mmcv with its operators')

from ..detectors import ROI, ROI_LOSSES, STEM, TAPS, build, make_batch  # noqa: E402
from .reference import naive_step  # noqa: E402
from .test_gradients import assert_same, gradients_of, step_gradients  # noqa: E402

STRENGTHS = dict(step_size=0.02, strengths=(0.5, 1.0), reinject=(False, True), weight=(0.3, 0.2))
PGD = dict(step_size=0.01, strengths=(1.0, ), num_steps=2, weight=0.4)
RTMDET_STEM = ('backbone.stem', 'backbone.stage1')
CASES = [
    pytest.param('faster_rcnn', TAPS['faster_rcnn'], STEM, STRENGTHS, id='faster_rcnn-backbone'),
    pytest.param('faster_rcnn', TAPS['faster_rcnn'], STEM, PGD, id='faster_rcnn-backbone-pgd'),
    pytest.param('faster_rcnn', f'{ROI}.1', (), dict(STRENGTHS, losses=ROI_LOSSES), id='faster_rcnn-roi'),
    pytest.param('faster_rcnn', f'{ROI}.0', (), dict(PGD, losses=ROI_LOSSES), id='faster_rcnn-roi-pgd'),
    pytest.param('mask_rcnn', TAPS['mask_rcnn'], STEM, STRENGTHS, id='mask_rcnn-backbone'),
    pytest.param('mask_rcnn', f'{ROI}.1', (), dict(STRENGTHS, losses=ROI_LOSSES), id='mask_rcnn-roi'),
    pytest.param('mask_rcnn', 'roi_head.mask_head.convs.0', (), dict(STRENGTHS, losses=('loss_mask', )),
                 id='mask_rcnn-mask'),
    pytest.param('faster_rcnn', 'roi_head.bbox_head.shared_fcs.1', (),
                 dict(STRENGTHS, at='input', losses=ROI_LOSSES), id='faster_rcnn-roi-input'),
    pytest.param('retinanet', TAPS['retinanet'], STEM, STRENGTHS, id='retinanet-backbone'),
    pytest.param('rtmdet', TAPS['rtmdet'], RTMDET_STEM, STRENGTHS, id='rtmdet-backbone'),
    pytest.param('dino', TAPS['dino'], STEM, STRENGTHS, id='dino-backbone'),
]


@pytest.fixture(autouse=True)
def float64():
    """Stock code makes tensors of the default type in the middle of a loss."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def stock_code_without_float64(monkeypatch):
    """Casts for what knows no float64: the operator of NMS, and RTMDet's priors and overlaps."""
    from mmdet.models.dense_heads import rpn_head
    from mmdet.models.task_modules import MlvlPointGenerator
    from mmdet.models.task_modules.assigners import DynamicSoftLabelAssigner
    priors = MlvlPointGenerator.grid_priors
    nms, matching = rpn_head.batched_nms, DynamicSoftLabelAssigner.dynamic_k_matching

    def batched_nms(boxes, scores, *args, **kwargs):
        kept = nms(boxes.float(), scores.float(), *args, **kwargs)
        return kept[0].to(boxes), kept[1]

    def dynamic_k_matching(*args):
        overlaps, indices = matching(*args)
        return overlaps.float(), indices

    def grid_priors(*args, **kwargs):  # float32 without its argument for the type
        return [prior.double() for prior in priors(*args, **kwargs)]

    monkeypatch.setattr(rpn_head, 'batched_nms', batched_nms)
    monkeypatch.setattr(MlvlPointGenerator, 'grid_priors', grid_priors)
    monkeypatch.setattr(DynamicSoftLabelAssigner, 'dynamic_k_matching', dynamic_k_matching)


def make(name, tap, schedule, recipe, batch_norm='shared', **afan):
    taps = dict(t=dict(dict(module=tap), **recipe))
    return build(name, dict(afan, taps=taps, clean_weight=0.8, schedule=schedule, batch_norm=batch_norm), double=True)


class SharedSamples:
    """The clean pass's proposals and sampled RoIs in every pass, in plain words: the first results are kept."""

    def __init__(self, model):
        self.kept, self.counts = {}, {}
        self.methods = []
        roi = getattr(model, 'roi_head', None)
        if roi is not None:
            self.methods = [(model.rpn_head, 'predict_by_feat'), (roi.bbox_assigner, 'assign'),
                            (roi.bbox_sampler, 'sample')]
        for owner, name in self.methods:
            setattr(owner, name, self.wrap(name, getattr(owner, name)))

    def wrap(self, name, stock):

        def method(*args, **kwargs):
            number = self.counts[name] = self.counts.get(name, 0) + 1
            results = self.kept.setdefault(name, [])
            if number > len(results):
                result = stock(*args, **kwargs)
                results.append((copy.deepcopy(result), torch.get_rng_state()))
                return result
            result, state = copy.deepcopy(results[number - 1])
            torch.set_rng_state(state)
            return result

        return method

    def begin(self):
        self.counts.clear()


@pytest.mark.parametrize('name, tap, head, recipe', CASES)
def test_both_schedules_equal_the_naive_reference(name, tap, head, recipe):
    data = make_batch(dtype=torch.float64, masks=name == 'mask_rcnn')
    reference = make(name, tap, 'two_phase', recipe)
    shared = SharedSamples(reference)
    stock = next(c for c in type(reference).__mro__ if c.__module__.startswith('mmdet.'))

    def stock_loss(inputs, data_samples):
        shared.begin()
        return stock.loss(reference, inputs, data_samples)

    reference.stock_loss = stock_loss
    strengths = recipe['strengths']
    weights = recipe['weight'] if isinstance(recipe['weight'], tuple) else (recipe['weight'], ) * len(strengths)
    total, terms = naive_step(
        reference, data, tap, step_size=recipe['step_size'], strengths=strengths,
        reinject=recipe.get('reinject', (False, ) * len(strengths)), weights=weights, clean_weight=0.8,
        num_steps=recipe.get('num_steps', 1), head=head, losses=recipe.get('losses'),
        at=recipe.get('at', 'output'))
    expected = gradients_of(reference)
    for schedule in ('two_phase', 'single_graph'):
        found, log = step_gradients(make(name, tap, schedule, recipe), data)
        assert_same(found, expected)
        assert log['loss'] == pytest.approx(total, rel=1e-7)  # the stock cross entropy of an RPN is float32
        for k, term in enumerate(terms):
            own = sum(v for key, v in log.items() if key.startswith(f'adv_t_{k}.') and 'loss' in key)
            assert own == pytest.approx(weights[k] * term, rel=1e-7)


FAST = dict(step_unit='std', step_size=0.2, strengths=(0.5, 1.0), strength_sampling='random', weight=0.5)


@pytest.mark.parametrize('name, recipe', [
    ('faster_rcnn', dict(FAST, fraction=0.5)),
    ('faster_rcnn', dict(FAST, attack_losses=[['*cls*'], ['*bbox*']])),
    ('mask_rcnn', dict(FAST, attack_losses=['loss_rpn_cls', 'loss_cls'], num_steps=2)),
    ('dino', dict(FAST, attack_losses=[['*cls'], ['*bbox', '*iou']], num_steps=2)),
    ('rtmdet', dict(FAST, random_start=True, radius=0.3)),
])
def test_both_schedules_agree(name, recipe):
    data = make_batch(dtype=torch.float64, masks=name == 'mask_rcnn', num_images=4, num_boxes=(1, 2, 3, 2))
    gradients = [step_gradients(make(name, TAPS[name], schedule, recipe), data)
                 for schedule in ('two_phase', 'single_graph')]
    assert_same(gradients[0][0], gradients[1][0])
    assert gradients[0][1] == pytest.approx(gradients[1][1], rel=1e-7)


def test_two_taps_at_once():
    """The gradients of two taps are the sums of what each adds to the clean one."""
    data = make_batch(dtype=torch.float64, masks=False)
    taps = dict(backbone=dict(STRENGTHS, module='backbone.layer2'), roi=dict(STRENGTHS, module=ROI, losses=ROI_LOSSES))

    def gradients(chosen):
        model = build('faster_rcnn', dict(taps=chosen, batch_norm='frozen'), double=True)
        return step_gradients(model, data)[0]

    both = gradients(taps)
    first, second = (gradients({name: taps[name]}) for name in taps)
    off = gradients({name: dict(tap, weight=0) for name, tap in taps.items()})
    assert_same(both, {n: first[n] + second[n] - off[n] for n in both})


@pytest.mark.parametrize('name', list(TAPS))
def test_a_later_step_keeps_less_and_gives_the_same(name):
    """With the recipe's second tap, in the RoI head, whose head is all before it."""
    model = make(name, TAPS[name], 'two_phase', STRENGTHS)
    if name == 'faster_rcnn':
        taps = dict(t=dict(module=TAPS[name], step_size=0.02),
                    roi=dict(module=f'{ROI}.1', step_size=0.02, losses=ROI_LOSSES))
        model = build(name, dict(taps=taps, batch_norm='shared'), double=True)
    data = make_batch(dtype=torch.float64, masks=name == 'mask_rcnn')
    first, log = step_gradients(model, copy.deepcopy(data))
    later, its_log = step_gradients(model, copy.deepcopy(data))
    assert_same(later, first)
    assert its_log == pytest.approx(log, abs=1e-9)
