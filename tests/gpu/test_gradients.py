"""The gradients of a step on a GPU are those of the CPU, in float64, for each task and both schedules."""
from __future__ import annotations

import pytest
import torch

pytest.importorskip('mmpretrain', reason='the tiny classifier is a model of mmpretrain')

from ..parity.test_gradients import assert_same, step_gradients  # noqa: E402

pytestmark = pytest.mark.gpu

SCHEDULES = ('two_phase', 'single_graph')
STRENGTHS = dict(strengths=(0.5, 1.0), reinject=(False, True), weight=(0.3, 0.2))
# A step along the gradient itself: its sign, where it is near zero, is chance in what stock code computes in float32.
SMOOTH = dict(STRENGTHS, step_size=0.5, step_unit='std', norm='l2')


@pytest.fixture
def assert_same_on_both(device, moved):
    """Return a function that trains a step on the CPU and on the device, and compares."""

    def check(build, batch, tolerance):
        on_cpu, log = step_gradients(build(), moved(batch, 'cpu'))
        found, its_log = step_gradients(build().to(device), moved(batch, device))
        assert {g.device.type for g in found.values()} == {device.type}
        assert any(float(g.abs().max()) > 0 for g in on_cpu.values())
        assert_same({n: g.cpu() for n, g in found.items()}, on_cpu, tolerance)
        assert its_log == pytest.approx(log, rel=max(tolerance, 1e-6), abs=1e-9)

    return check


@pytest.mark.parametrize('schedule', SCHEDULES)
@pytest.mark.parametrize('recipe', [dict(STRENGTHS, step_size=0.05), dict(SMOOTH, num_steps=3),
                                    dict(step_size=0.05, num_steps=2, radius=0.07)], ids=['linf', 'l2', 'pgd'])
def test_classification(tiny_classifier, tiny_batch, assert_same_on_both, recipe, schedule):
    afan = dict(taps=dict(s=dict(recipe, module='backbone.layer1')), clean_weight=0.8, batch_norm='batch',
                schedule=schedule)
    batch = tiny_batch(image_size=16)
    batch['inputs'] = batch['inputs'].double()
    assert_same_on_both(lambda: tiny_classifier(afan=afan).double().train(), batch, 1e-8)


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_segmentation(assert_same_on_both, schedule):
    pytest.importorskip('mmseg', reason='the small segmentor is a model of mmseg')
    pytest.importorskip('mmcv.ops', reason='mmseg needs mmcv with its operators')
    from ..segmentors import build, make_batch
    taps = dict(backbone=dict(SMOOTH, module='backbone.layer3'),
                aspp=dict(SMOOTH, module='decode_head.bottleneck', weight=0.1))
    afan = dict(taps=taps, clean_weight=0.5, batch_norm='batch', schedule=schedule)
    undropped = dict(dropout_ratio=0.0)  # a GPU draws other random numbers
    assert_same_on_both(lambda: build('deeplabv3plus', afan, double=True, decode_head=undropped,
                                      auxiliary_head=undropped), make_batch(dtype=torch.float64), 1e-6)


class TestDetection:
    """mmdet in float64, with the casts that its stock code needs there."""

    @pytest.fixture(autouse=True)
    def casts(self, request):
        pytest.importorskip('mmdet', reason='the small detector is a model of mmdet')
        pytest.importorskip('mmcv.ops', reason='detectors need mmcv with its operators')
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(torch.float32)

    @pytest.mark.parametrize('schedule', SCHEDULES)
    def test_detection(self, assert_same_on_both, monkeypatch, schedule):
        from mmdet.models.dense_heads import rpn_head

        from ..detectors import ROI, ROI_LOSSES, build, make_batch
        nms = rpn_head.batched_nms

        def batched_nms(boxes, scores, *args, **kwargs):  # the operator knows no float64
            kept = nms(boxes.float(), scores.float(), *args, **kwargs)
            return kept[0].to(boxes), kept[1]

        monkeypatch.setattr(rpn_head, 'batched_nms', batched_nms)
        taps = dict(backbone=dict(SMOOTH, module='backbone.layer2'),
                    roi=dict(SMOOTH, module=f'{ROI}.1', weight=0.1, losses=ROI_LOSSES))
        afan = dict(taps=taps, clean_weight=0.5, batch_norm='frozen', schedule=schedule)
        assert_same_on_both(lambda: build('faster_rcnn', afan, double=True),
                            make_batch(dtype=torch.float64, masks=False), 1e-5)
