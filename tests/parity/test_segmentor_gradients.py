"""Segmentors: two-phase, single-graph and the naive reference give the same gradients, in float64."""
from __future__ import annotations

import pytest
import torch

pytest.importorskip('mmseg', reason='mmseg is not installed')
pytest.importorskip('mmdet', reason='the query-based segmentor is made of parts of mmdet')
pytest.importorskip('mmcv.ops', reason='its pixel decoder needs mmcv with its operators')

from ..segmentors import BACKBONE_TAPS, build, make_batch  # noqa: E402
from .reference import naive_step  # noqa: E402
from .test_gradients import assert_same, gradients_of, step_gradients  # noqa: E402

STRENGTHS = dict(step_size=0.02, strengths=(0.5, 1.0), reinject=(False, True), weight=(0.3, 0.2))
PGD = dict(step_size=0.01, strengths=(1.0, ), num_steps=2, weight=0.4)
STEM = ('backbone.stem', 'backbone.layer1', 'backbone.layer2')
ASPP_HEAD = ('backbone', 'decode_head.image_pool', 'decode_head.aspp_modules')
DECODE = ('decode.loss_ce', )
CASES = [
    pytest.param('deeplabv3plus', BACKBONE_TAPS['deeplabv3plus'], STEM, STRENGTHS, id='deeplabv3plus-backbone'),
    pytest.param('deeplabv3plus', BACKBONE_TAPS['deeplabv3plus'], STEM, dict(PGD, losses=DECODE),
                 id='deeplabv3plus-backbone-decode'),
    pytest.param('deeplabv3plus', 'decode_head.bottleneck', ASPP_HEAD, dict(STRENGTHS, losses=DECODE),
                 id='deeplabv3plus-aspp'),
    pytest.param('deeplabv3plus', 'decode_head.sep_bottleneck', (*ASPP_HEAD, 'decode_head.bottleneck',
                                                                 'decode_head.c1_bottleneck'),
                 dict(STRENGTHS, at='input', losses=DECODE), id='deeplabv3plus-concatenation'),
    pytest.param('segformer', 'backbone.layers.1.1.0', ('backbone.layers.0', 'backbone.layers.1.0'),
                 dict(STRENGTHS, reinject=(False, False)), id='segformer-block'),
    pytest.param('segformer', 'decode_head.fusion_conv', ('backbone', 'decode_head.convs'), PGD, id='segformer-fusion'),
    pytest.param('pspnet', BACKBONE_TAPS['pspnet'], STEM, STRENGTHS, id='pspnet-backbone'),
    pytest.param('mask2former', BACKBONE_TAPS['mask2former'], ('backbone.conv1', 'backbone.bn1', 'backbone.layer1'),
                 STRENGTHS, id='mask2former-backbone'),
]
# What the queries predict before they have seen the image does not depend on any tap, and is no adversarial term.
MASK2FORMER_LOSSES = [f'decode.{layer}loss_{kind}' for layer in ('', 'd0.', 'd1.') for kind in ('cls', 'mask', 'dice')
                      if (layer, kind) != ('d0.', 'cls')]


@pytest.fixture(autouse=True)
def float64():
    """Stock code makes tensors of the default type in the middle of a loss."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def casts_to_float64(monkeypatch):
    """The query-based head casts masks to float32 in several places."""
    monkeypatch.setattr(torch.Tensor, 'float', torch.Tensor.double)


def make(name, tap, schedule, recipe, **afan):
    taps = dict(t=dict(dict(module=tap), **recipe))
    return build(name, dict(afan, taps=taps, clean_weight=0.8, schedule=schedule, batch_norm='shared'), double=True)


@pytest.mark.parametrize('name, tap, head, recipe', CASES)
def test_both_schedules_equal_the_naive_reference(name, tap, head, recipe):
    from mmseg.models import EncoderDecoder
    data = make_batch(dtype=torch.float64)
    reference = make(name, tap, 'two_phase', recipe)
    reference.stock_loss = lambda inputs, data_samples: EncoderDecoder.loss(reference, inputs, data_samples)
    strengths = recipe['strengths']
    kept = recipe.get('losses', MASK2FORMER_LOSSES if name == 'mask2former' else None)
    weights = recipe['weight'] if isinstance(recipe['weight'], tuple) else (recipe['weight'], ) * len(strengths)
    total, terms = naive_step(
        reference, data, tap, step_size=recipe['step_size'], strengths=strengths,
        reinject=recipe.get('reinject', (False, ) * len(strengths)), weights=weights, clean_weight=0.8,
        num_steps=recipe.get('num_steps', 1), head=head, losses=kept, at=recipe.get('at', 'output'))
    expected = gradients_of(reference)
    for schedule in ('two_phase', 'single_graph'):
        found, log = step_gradients(make(name, tap, schedule, recipe), data)
        assert_same(found, expected)
        assert log['loss'] == pytest.approx(total, rel=1e-9)
        for k, term in enumerate(terms):
            own = sum(v for key, v in log.items() if key.startswith(f'adv_t_{k}.') and 'loss' in key)
            assert own == pytest.approx(weights[k] * term, rel=1e-9)


@pytest.mark.parametrize('name, tap', [*BACKBONE_TAPS.items(), ('deeplabv3plus', 'decode_head.bottleneck')])
def test_a_later_step_keeps_less_and_gives_the_same(name, tap):
    model = make(name, tap, 'two_phase', dict(STRENGTHS, reinject=(False, False)))
    data = make_batch(dtype=torch.float64)
    first, log = step_gradients(model, data)
    later, its_log = step_gradients(model, data)
    assert_same(later, first)
    assert its_log == pytest.approx(log, abs=1e-9)
