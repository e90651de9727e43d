"""Detectors: what must always hold, batches that are hard, and what an RoI tap does not compute again."""
from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip('mmdet', reason='mmdet is not installed')
pytest.importorskip('mmcv.ops', reason='detectors need mmcv with its operators')

from mmdet.structures import DetDataSample  # noqa: E402
from mmengine.config import ConfigDict  # noqa: E402
from mmengine.registry import MODELS, init_default_scope  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from mmafan.models.detection import CODEBASE  # noqa: E402
from mmafan.replay import Batch  # noqa: E402

from ..detectors import DETECTORS, ROI, ROI_LOSSES, TAPS, build, make_batch, stock_config  # noqa: E402
from ..training import step  # noqa: E402

FIELDS = dict(step_size=0.1, step_unit='std', strengths=(0.5, 1.0), reinject=(False, True), weight=0.25)


def tap(module, **fields):
    return dict(dict(FIELDS, module=module), **fields)


def taps_of(name, **fields):
    taps = dict(backbone=tap(TAPS[name], **fields))
    if 'rcnn' in name:
        taps['roi'] = tap(ROI, losses=ROI_LOSSES, **fields)
    return dict(taps=taps, clean_weight=0.5, batch_norm='batch')


def batch_for(name, **kwargs):
    return make_batch(masks=name == 'mask_rcnn', **kwargs)


def own_attributes(model):
    """Names of methods that lie on objects themselves: a patch that was left behind."""
    roi = getattr(model, 'roi_head', None)
    objects = [*model.modules(), getattr(roi, 'bbox_assigner', None), getattr(roi, 'bbox_sampler', None)]
    return [k for o in objects if o is not None for k, v in vars(o).items()
            if k in ('forward', 'assign', 'sample', 'predict_by_feat', 'loss_and_predict', 'bbox_loss', 'mask_loss')]


# ---------------------------------------------------------------- what must always hold
@pytest.mark.parametrize('name', DETECTORS)
def test_off_is_the_stock_detector_bit_for_bit(name):
    batch = batch_for(name)
    off, stock = build(name, taps_of(name, weight=0)), build(name)
    for number in range(2):
        results = []
        for model in (stock, off):
            log, gradients = step(model, batch, lr=0.01)
            results.append((log, gradients, torch.get_rng_state()))
        assert results[0][0] == results[1][0] and results[0][1].keys() == results[1][1].keys()
        assert all(torch.equal(results[0][1][n], results[1][1][n]) for n in results[0][1])
        assert torch.equal(results[0][2], results[1][2])


@pytest.mark.parametrize('name', DETECTORS)
def test_checkpoints_are_exchanged_and_predictions_stay(name):
    afan, stock = build(name, taps_of(name), seed=2), build(name, seed=4)
    step(afan, batch_for(name), lr=0.01)
    assert afan.state_dict().keys() == stock.state_dict().keys()
    stock.load_state_dict(afan.state_dict(), strict=True)
    again = build(name, taps_of(name), seed=6)
    again.load_state_dict(stock.state_dict(), strict=True)
    batch = batch_for(name)
    outputs = []
    for model in (afan, stock, again):
        model.eval()
        with torch.no_grad():
            result = model(batch['inputs'], copy.deepcopy(batch['data_samples']), mode='predict')
        outputs.append([(r.pred_instances.bboxes, r.pred_instances.scores) for r in result])
    for other in outputs[1:]:
        for mine, theirs in zip(outputs[0], other):
            assert len(mine[1]) and all(torch.equal(a, b) for a, b in zip(mine, theirs))


@pytest.mark.parametrize('name', DETECTORS)
def test_the_attack_raises_the_loss_more_than_noise(name):

    def mean_loss(direction):
        total = 0.0
        for seed in range(3):
            afan = dict(taps=dict(a=tap(TAPS[name], strengths=(1.0, ), reinject=False, weight=1.0, step_size=0.03,
                                        direction=direction)))
            log, _ = step(build(name, afan, seed=seed), batch_for(name, seed=seed))
            clean = log['loss'] - sum(v for k, v in log.items() if k.startswith('adv_') and 'loss' in k)
            total += sum(v for k, v in log.items() if k.startswith('adv_') and 'loss' in k) - clean
        return total

    attacked = mean_loss('gradient')
    assert attacked > 0 and attacked > 2 * abs(mean_loss('random_sign'))


@pytest.mark.parametrize('name', ['faster_rcnn', 'mask_rcnn'])
@pytest.mark.parametrize('fails', [False, True])
def test_nothing_stays_behind(name, fails, monkeypatch):
    model = build(name, taps_of(name))
    assert not own_attributes(model)
    if fails:
        monkeypatch.setattr(type(model.roi_head.bbox_head), 'loss', lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            step(model, batch_for(name))
    else:
        step(model, batch_for(name))
    assert not own_attributes(model) and not model.afan.inside and torch.is_grad_enabled()
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


# ---------------------------------------------------------------- proposals and RoIs
@pytest.fixture
def seen(monkeypatch):
    """The boxes of the sampled RoIs and their labels, for every pass of a step."""
    from mmdet.models.roi_heads.bbox_heads import BBoxHead
    stock, passes = BBoxHead.loss_and_target, []

    def spy(self, *args, **kwargs):
        results = kwargs['sampling_results']
        passes.append([(r.priors.clone(), r.pos_gt_labels.clone()) for r in results])
        return stock(self, *args, **kwargs)

    monkeypatch.setattr(BBoxHead, 'loss_and_target', spy)
    return passes


@pytest.mark.parametrize('module', ['backbone.layer1', 'neck', 'roi_head.bbox_roi_extractor', ROI])
def test_all_passes_see_the_same_sampled_rois(module, seen):
    fields = dict(losses=ROI_LOSSES) if module.startswith('roi') else {}
    model = build('faster_rcnn', dict(taps=dict(a=tap(module, step_size=0.5, num_steps=2, **fields))))
    step(model, make_batch(masks=False))
    # Clean, the check of the replay, one further attack step, two strengths; the stock model twice where what follows
    # the tap changes its output in place.
    assert len(seen) == 5 + 2 * (module == ROI)
    for other in seen[1:]:
        for (boxes, labels), (expected_boxes, expected_labels) in zip(other, seen[0]):
            assert torch.equal(boxes, expected_boxes) and torch.equal(labels, expected_labels)


def test_boxes_that_a_head_changes_by_numpy_are_as_they_were_sampled(seen, monkeypatch):
    """numpy shares the memory of tensors on a CPU, and no version tells; mask targets clip boxes that way."""
    from mmdet.models.roi_heads.bbox_heads import BBoxHead
    stock = BBoxHead.loss_and_target

    def change(self, *args, **kwargs):
        found = stock(self, *args, **kwargs)
        for result in kwargs['sampling_results']:
            result.pos_priors.numpy()[:] += 3
        return found

    monkeypatch.setattr(BBoxHead, 'loss_and_target', change)
    step(build('faster_rcnn', dict(taps=dict(a=tap('backbone.layer1', step_size=0.5, num_steps=2)))),
         make_batch(masks=False))
    assert len(seen) == 5 and all(len(result[0]) for result in seen[0])
    for other in seen[1:]:
        assert all(torch.equal(boxes, expected) for (boxes, _), (expected, _) in zip(other, seen[0]))


def test_an_roi_tap_runs_the_roi_head_alone(monkeypatch):
    """After the first step, in which every tap is checked."""
    model = build('mask_rcnn', dict(taps=dict(roi=tap(f'{ROI}.0', losses=ROI_LOSSES, num_steps=2))))
    step(model, make_batch())
    runs = {}
    watched = dict(conv=model.backbone.conv1, neck=model.neck.fpn_convs[0].conv, rpn=model.rpn_head.rpn_cls,
                   roi_align=model.roi_head.bbox_roi_extractor.roi_layers[0], cls=model.roi_head.bbox_head.fc_cls,
                   first=model.roi_head.bbox_head.shared_fcs[0], second=model.roi_head.bbox_head.shared_fcs[1],
                   mask=model.roi_head.mask_head.conv_logits)
    for name, module in watched.items():
        stock = module.forward

        def counted(*args, name=name, stock=stock, **kwargs):
            runs[name] = runs.get(name, 0) + 1
            return stock(*args, **kwargs)

        monkeypatch.setattr(module, 'forward', counted)
    for owner, name in ((model.rpn_head, 'loss_by_feat'), (model.rpn_head, 'predict_by_feat'),
                        (model.roi_head.bbox_assigner, 'assign'), (model.roi_head.bbox_sampler, 'sample'),
                        (model.roi_head.mask_head, 'loss_and_target')):
        stock = getattr(owner, name)

        def counted(*args, name=name, stock=stock, **kwargs):
            runs[name] = runs.get(name, 0) + 1
            return stock(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)
    log, _ = step(model, make_batch())
    passes = 1 + 1 + 2  # clean, a second attack step, two strengths
    # Five levels share the heads of the RPN; every level that has RoIs runs its part of RoIAlign.
    assert runs.pop('rpn') == 5 and runs.pop('roi_align') >= 1
    assert runs == dict(conv=1, neck=1, second=passes, cls=passes, mask=1, first=1, loss_by_feat=1, predict_by_feat=1,
                        assign=2, sample=2, loss_and_target=1)
    assert [k for k in log if k.startswith('adv_roi_0.')] == ['adv_roi_0.loss_cls', 'adv_roi_0.acc',
                                                              'adv_roi_0.loss_bbox']


def test_a_tap_in_the_rpn_runs_no_roi_head(seen):
    model = build('mask_rcnn', dict(taps=dict(a=tap('rpn_head.rpn_conv'))))
    log, _ = step(model, make_batch())
    assert len(seen) == 1 and [k for k in log if k.startswith('adv_a_0.')] == [
        'adv_a_0.loss_rpn_cls', 'adv_a_0.loss_rpn_bbox', 'adv_a_0.acc']


def test_a_named_loss_must_depend_on_the_tap():
    model = build('mask_rcnn', dict(taps=dict(a=tap(ROI, losses=('loss_cls', 'loss_mask')))))
    with pytest.raises(ValueError, match=r"afan.taps.a.losses names .loss_mask., which does not depend on the output "
                                         r"of .roi_head.bbox_head.shared_fcs.1.; \['loss_bbox', 'loss_cls'\] do"):
        step(model, make_batch())


def test_losses_before_the_tap_are_no_part_of_its_terms():
    model = build('faster_rcnn', dict(taps=dict(roi=tap(ROI))))
    log, gradients = step(model, make_batch(masks=False))
    assert {k.split('.')[1] for k in log if k.startswith('adv_')} == {'loss_cls', 'loss_bbox', 'acc'}
    assert log['loss'] == pytest.approx(sum(v for k, v in log.items() if 'loss' in k and k != 'loss'), rel=1e-5)


def test_the_shared_fc_tap_is_that_of_the_published_design():
    """A list as tap is its last module, and one field of one tap is overridden as in any config."""
    model = build('faster_rcnn', dict(taps=dict(roi=tap(ROI, losses=ROI_LOSSES))))
    assert model.afan.config.taps['roi'].module == f'{ROI}.1'


def test_ohem_samples_with_the_clean_network():
    """The sampler runs the box head itself; those runs are no passes of the tap."""
    cfg = dict(train_cfg=dict(rcnn=dict(sampler=dict(type='OHEMSampler'))))
    model = build('faster_rcnn', taps_of('faster_rcnn'), **cfg)
    log, _ = step(model, make_batch(masks=False))
    assert all(k in log for k in ('adv_backbone_1.loss_cls', 'adv_roi_1.loss_bbox'))


# ---------------------------------------------------------------- hard batches
HARD = dict(
    empty_image=dict(num_boxes=(0, 3)),
    no_boxes_at_all=dict(num_boxes=(0, 0)),
    crowd_only=dict(num_boxes=(3, 2), crowd=True),
    crowd_alone=dict(num_images=1, num_boxes=(3, ), crowd=True),
    differing_sizes=dict(sizes=[(64, 60), (40, 96)]),
    one_image=dict(num_images=1, num_boxes=(2, )),
)


@pytest.mark.parametrize('batch', HARD)
@pytest.mark.parametrize('name', DETECTORS)
def test_hard_batches_train(name, batch):
    model = build(name, taps_of(name))
    for _ in range(2):
        log, gradients = step(model, batch_for(name, **HARD[batch]), lr=1e-3)
    assert all(torch.isfinite(torch.tensor(v)) for v in log.values())
    assert any(k.startswith('adv_backbone_1.') for k in log) and gradients
    assert all(torch.isfinite(g).all() for g in gradients.values())


@pytest.mark.parametrize('num_boxes', [(0, 0), (0, 2), (2, 2)])
def test_images_without_proposals_train(num_boxes):
    cfg = dict(train_cfg=dict(rpn_proposal=dict(min_bbox_size=10000)))
    for name in ('faster_rcnn', 'mask_rcnn'):
        model = build(name, taps_of(name, num_steps=2), **cfg)
        for _ in range(2):
            log, gradients = step(model, batch_for(name, num_boxes=num_boxes), lr=1e-3)
        assert all(torch.isfinite(torch.tensor(v)) for v in log.values())
        assert all(torch.isfinite(g).all() for g in gradients.values())


def test_a_first_batch_without_boxes_proves_nothing():
    """FoveaBox has a constant for its box loss there; named losses are neither refused nor forgotten."""
    cfg = dict(bbox_head=dict(
        _delete_=True, type='FoveaHead', num_classes=5, in_channels=16, feat_channels=16, stacked_convs=1,
        strides=[8, 16, 32, 64, 128], base_edge_list=[16, 32, 64, 128, 256],
        scale_ranges=((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048)), sigma=0.4, with_deform=False,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True), loss_bbox=dict(type='SmoothL1Loss')))
    for fields in ({}, dict(losses=['loss_bbox']), dict(attack_losses=[['loss_cls'], ['loss_bbox']])):
        model = build('retinanet', dict(taps=dict(a=tap('backbone.layer2', **fields))), **cfg)
        step(model, batch_for('retinanet', num_boxes=(0, 0)))
        assert model.afan.facts is None
        log, _ = step(model, batch_for('retinanet'))
        assert model.afan.facts is not None and 'adv_a_1.loss_bbox' in log


def test_batches_without_boxes_forever_are_checked_in_the_end():
    model = build('retinanet', dict(taps=dict(a=tap('backbone.layer2'))))
    for _ in range(21):
        assert model.afan.facts is None
        step(model, batch_for('retinanet', num_boxes=(0, 0)))
    assert model.afan.facts is not None


@pytest.mark.parametrize('empty_first', [True, False])
def test_a_later_stage_that_a_batch_does_not_come_to(empty_first):
    """A cascade stops where a stage leaves no box."""
    head = dict(type='Shared2FCBBoxHead', in_channels=16, fc_out_channels=16, roi_feat_size=4, num_classes=5,
                bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]), reg_class_agnostic=True,
                loss_cls=dict(type='CrossEntropyLoss'), loss_bbox=dict(type='SmoothL1Loss'))
    rcnn = dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5),
                sampler=dict(type='RandomSampler', num=32, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
                pos_weight=-1)
    extractor = dict(type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', output_size=4, sampling_ratio=0),
                     out_channels=16, featmap_strides=[4, 8, 16, 32])
    cfg = dict(roi_head=dict(_delete_=True, type='CascadeRoIHead', num_stages=2, stage_loss_weights=[1, 0.5],
                             bbox_roi_extractor=extractor, bbox_head=[head, head]),
               train_cfg=dict(rpn_proposal=dict(min_bbox_size=10000), rcnn=[rcnn, rcnn]))
    model = build('faster_rcnn', dict(taps=dict(a=tap('roi_head.bbox_head.1.shared_fcs'))), **cfg)
    empty, full = batch_for('faster_rcnn', num_boxes=(0, 0)), batch_for('faster_rcnn')
    logs = [step(model, batch)[0] for batch in ((empty, full, empty) if empty_first else (full, empty, full))]
    assert [any(k.startswith('adv_a_1.s1.loss') for k in log) for log in logs] == [not empty_first, empty_first,
                                                                                   not empty_first]


@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
def test_frozen_levels_of_a_tap_are_constants(schedule):
    """The whole backbone as tap, its first stage frozen: neither the attack nor noise moves that level."""
    for direction in ('gradient', 'random_sign'):
        taps = dict(a=tap('backbone', direction=direction, losses='loss_rpn_*', strengths=(1.0, ), reinject=False))
        model = build('faster_rcnn', dict(taps=taps, schedule=schedule), backbone=dict(frozen_stages=1))
        seen = []
        model.neck.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        step(model, make_batch(masks=False))
        clean, adversarial = seen[0], seen[-1]
        assert torch.equal(clean[0], adversarial[0])
        assert not any(torch.equal(a, b) for a, b in zip(clean[1:], adversarial[1:]))


def test_stock_code_that_changes_its_data_samples():
    """Fast R-CNN takes the boxes out of the proposals it is given."""
    from mmengine.structures import InstanceData
    model = build('faster_rcnn', taps_of('faster_rcnn'), type='FastRCNN', rpn_head=None,
                  train_cfg=dict(rpn_proposal=dict(max_per_img=40)))
    batch = make_batch(masks=False)
    for sample in batch['data_samples']:
        sample.proposals = InstanceData(bboxes=torch.rand(20, 4) * 30 + torch.tensor([0., 0., 31., 31.]))
    log, _ = step(model, batch)
    assert 'adv_backbone_1.loss_cls' in log and 'bboxes' in batch['data_samples'][0].proposals


def test_a_student_and_its_teacher_share_their_rois(seen):
    """Semi-supervised training: two batches in one loss, and detectors inside of the model."""
    detector = stock_config('faster_rcnn')
    detector.pop('data_preprocessor')
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(
        type='mmafan.AFANSoftTeacher', detector=detector,
        data_preprocessor=dict(type='MultiBranchDataPreprocessor', data_preprocessor=dict(type='DetDataPreprocessor')),
        semi_train_cfg=dict(freeze_teacher=True, pseudo_label_initial_score_thr=0.01, sup_weight=1.0,
                            unsup_weight=4.0, cls_pseudo_thr=0.01, min_pseudo_bbox_wh=(1e-2, 1e-2), jitter_times=2,
                            rpn_pseudo_thr=0.01, jitter_scale=0.06, reg_pseudo_thr=100.0),
        semi_test_cfg=dict(predict_on='teacher'),
        afan=dict(taps=dict(a=tap('student.backbone.layer2', step_size=0.5)), schedule='single_graph')))
    model.train()
    batches = {name: make_batch(masks=False, seed=seed) for seed, name in
               enumerate(('sup', 'unsup_teacher', 'unsup_student'))}
    for batch in batches.values():
        for sample in batch['data_samples']:
            sample.set_metainfo(dict(homography_matrix=np.eye(3, dtype=np.float32)))
    inputs, samples = ({name: batch[key] for name, batch in batches.items()} for key in ('inputs', 'data_samples'))
    losses = model.loss(inputs, samples)
    assert 'adv_a_1.sup_loss_cls' in losses
    supervised = [s for s in seen if len(s) == 2]
    passes = len(supervised) // 4  # clean, check, two strengths; each may look at more than one batch
    for other in range(1, 4):
        for mine, theirs in zip(supervised[:passes], supervised[other * passes:(other + 1) * passes]):
            assert all(torch.equal(a, b) for (a, _), (b, _) in zip(mine, theirs))


def test_pairing_does_not_need_replay(seen):
    model = build('faster_rcnn', dict(taps=dict(a=tap('backbone.layer2', step_size=0.5)), replay=False))
    step(model, make_batch(masks=False))
    seen.clear()  # the first step has one more, which proves the tap
    step(model, make_batch(masks=False))
    assert len(seen) == 3 and all(torch.equal(a, b) for other in seen[1:]
                                  for (a, _), (b, _) in zip(other, seen[0]))


def test_noise_pays_for_no_gradient(monkeypatch):
    from mmafan.models.attack import Suffix
    monkeypatch.setattr(Suffix, '_attack_gradients', lambda *_: 1 / 0)
    for schedule in ('two_phase', 'single_graph'):
        model = build('retinanet', dict(schedule=schedule, taps=dict(
            a=tap('backbone.layer2', direction='random_sign', attack_losses='loss_cls'))))
        step(model, make_batch(masks=False))


def test_a_fraction_of_small_batches_takes_turns():
    """Of two images an eighth: one image in every fourth step, whose terms count four times."""
    fields = dict(strengths=(1.0, ), reinject=False, weight=0.1)
    model = build('faster_rcnn', dict(taps=dict(a=tap('backbone.layer2', fraction=0.125, **fields)),
                                      batch_norm='frozen'))
    whole = build('faster_rcnn', dict(taps=dict(a=tap('backbone.layer2', **fields)), batch_norm='frozen'))
    twins = make_batch(masks=False, num_images=1, num_boxes=(2, ))
    twins = dict(inputs=twins['inputs'].repeat(2, 1, 1, 1), data_samples=twins['data_samples'] * 2)
    logs = [step(model, twins)[0] for _ in range(8)]
    active = [k for k, log in enumerate(logs) if any(key.startswith('adv_') for key in log)]
    assert active == [3, 7]
    stock, _ = step(build('faster_rcnn'), twins)
    assert {k: logs[0][k] for k in stock} == pytest.approx(stock, rel=1e-6)
    expected, _ = step(whole, twins)
    # RoIs are sampled at random in each of the twins, so the mean of one differs a little from that of both.
    assert logs[3]['adv_a_0.loss_rpn_bbox'] == pytest.approx(4 * expected['adv_a_0.loss_rpn_bbox'], rel=0.3)


# ---------------------------------------------------------------- which losses, and state of the stock code
def test_a_wrong_name_of_a_loss_is_one_sentence():
    model = build('retinanet', dict(taps=dict(a=tap('backbone.layer2', attack_losses='loss_box'))))
    with pytest.raises(ValueError, match=r"afan.taps.a.attack_losses names 'loss_box', but the losses of the model are "
                                         r"\['loss_cls', 'loss_bbox'\]"):
        step(model, make_batch(masks=False))


def test_attacked_losses_rise_more_than_the_others():
    """An attack on one loss raises that loss more than an attack on the other does."""

    def terms(attacked):
        afan = dict(taps=dict(a=tap('backbone.layer2', strengths=(1.0, ), reinject=False, step_size=0.02,
                                    attack_losses=attacked, weight=1.0)))
        log, _ = step(build('retinanet', afan), make_batch(masks=False))
        return log['adv_a_0.loss_cls'], log['adv_a_0.loss_bbox']

    on_cls, on_bbox = terms('loss_cls'), terms('loss_bbox')
    assert on_cls[0] > on_bbox[0] and on_bbox[1] > on_cls[1]
    stronger = sum(terms([['loss_cls'], ['loss_bbox']]))
    assert stronger >= 0.999 * min(sum(on_cls), sum(on_bbox))


def test_histories_of_the_stock_code_see_clean_passes_only():
    """Dynamic R-CNN keeps overlaps and targets of its iterations, and sets its thresholds by them."""
    cfg = dict(
        roi_head=dict(type='DynamicRoIHead', bbox_head=dict(loss_bbox=dict(type='SmoothL1Loss', beta=1.0))),
        train_cfg=dict(rcnn=dict(dynamic_rcnn=dict(iou_topk=5, beta_topk=3, update_iter_interval=100,
                                                   initial_iou=0.4, initial_beta=1.0))))
    histories = []
    for afan in (None, taps_of('faster_rcnn')):
        model = build('faster_rcnn', afan, **cfg)
        for _ in range(3):
            step(model, make_batch(masks=False))
        histories.append((model.roi_head.iou_history, model.roi_head.beta_history))
    assert len(histories[0][0]) == 3 and histories[0] == histories[1]


def test_buffers_of_a_loss_see_clean_passes_only():
    """The seesaw loss counts the samples of each class."""
    loss = dict(type='SeesawLoss', num_classes=5, p=0.8, q=2.0, _delete_=True)
    counts = []
    for afan in (None, dict(taps=dict(a=tap('backbone.layer2')))):
        model = build('faster_rcnn', afan, roi_head=dict(bbox_head=dict(loss_cls=loss)))
        for _ in range(2):
            step(model, make_batch(masks=False))
        counts.append(model.roi_head.bbox_head.loss_cls.cum_samples)
    assert counts[0].sum() > 0 and torch.equal(counts[0], counts[1])


# ---------------------------------------------------------------- what is watched
class Part(nn.Module):
    """Has some methods."""

    def __init__(self, *names, **parts):
        super().__init__()
        for name in names:
            self.__dict__[name] = print
        for name, part in parts.items():
            setattr(self, name, part)


def watched(model):
    return {(id(call.owner), call.name, call.paired, call.per_sample) for call in CODEBASE.watched_calls(model)}


def test_what_a_two_stage_detector_does_outside_of_modules_is_watched():
    """Proposals and samples are those of the clean pass in every pass, the others where they do not depend on a tap."""
    inner = Part('predict_by_feat')
    rpn = Part('loss_and_predict', 'predict_by_feat', inner=inner, other=Part('loss'))
    assigner, samplers = Part('assign'), [Part('sample'), SimpleNamespace(sample=print), SimpleNamespace()]
    roi = Part('bbox_loss', 'mask_loss', 'semantic_loss', 'global_context_loss', bbox_assigner=assigner)
    roi.bbox_sampler = samplers
    semantic = Part('loss')
    expected = {(id(part), 'predict_by_feat', True, False) for part in (rpn, inner)}
    expected |= {(id(part), name, True, True) for part, name in (
        (assigner, 'assign'), (samplers[0], 'sample'), (samplers[1], 'sample'))}
    expected |= {(id(part), name, False, False) for part, name in (
        (rpn, 'loss_and_predict'), (roi, 'bbox_loss'), (roi, 'mask_loss'), (roi, 'semantic_loss'),
        (roi, 'global_context_loss'), (semantic, 'loss'))}
    detector = Part(rpn_head=rpn, roi_head=roi, semantic_head=semantic)
    assert watched(detector) == expected
    assert watched(nn.ModuleList([detector, nn.Identity()])) == expected  # inside of another model
    assert watched(Part(rpn_head=rpn, semantic_head=semantic)) == set()  # of one stage
    alone = Part('bbox_loss')
    alone.bbox_assigner = (assigner, )
    for parts in (dict(rpn_head=None), {}):  # given proposals
        assert watched(Part(roi_head=alone, **parts)) == {
            (id(assigner), 'assign', True, True), (id(alone), 'bbox_loss', False, False)}


@pytest.mark.parametrize('counts, lacks', [((2, 1), False), ((0, 0), True), ((2, 0), True), ((), False)])
def test_a_batch_lacks_targets_where_an_image_has_no_box(counts, lacks):
    samples = []
    for count in counts:
        samples.append(DetDataSample())
        samples[-1].gt_instances = InstanceData(bboxes=torch.rand(count, 4))
    images, others = torch.rand(2, 3, 8, 8), [DetDataSample(), 'name', None]
    assert CODEBASE.lacks_targets(Batch((images, samples), {})) is lacks
    assert CODEBASE.lacks_targets(Batch((images, ), dict(others=others, data_samples=tuple(samples)))) is lacks
    assert CODEBASE.lacks_targets(Batch((images, ), dict(by_branch=dict(sup=samples)))) is False
