"""The shift of statistics: against NumPy, for known changes, and on models against plain forward hooks."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from mmafan.analysis.statistics_shift import ARMS, draw_sign_noise, measure_statistics_shift, moment_shift


def numpy_shift(clean, perturbed, channel):
    """The module's equations, in float64: no channel may be flat."""
    clean, perturbed = (np.moveaxis(np.asarray(f, dtype=np.float64), channel, 1) for f in (clean, perturbed))
    clean, perturbed = (f.reshape(*f.shape[:2], -1) for f in (clean, perturbed))
    deviation, new = clean.std(axis=(0, 2)), perturbed.std(axis=(0, 2))
    return (np.mean(np.abs(perturbed.mean(2) - clean.mean(2)) / deviation), np.mean(np.abs(np.log(new / deviation))))


@pytest.mark.parametrize('shape, channel', [((5, 4), 1), ((3, 4, 5, 6), 1), ((3, 7, 4), 2), ((4, 3, 1, 1), 1)])
def test_against_numpy(shape, channel):
    clean, perturbed = torch.randn(shape), torch.randn(shape) * 1.5 + 0.3
    shift = moment_shift(clean, perturbed)
    np.testing.assert_allclose([shift.mean, shift.deviation], numpy_shift(clean, perturbed, channel), rtol=1e-9)
    assert shift.kept == 1


def test_known_affine_change_of_each_channel():
    clean = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    scale, offset = torch.tensor([2.0, 0.5, 1.0]), torch.tensor([0.0, 0.7, -0.4])
    shift = moment_shift(clean, clean * scale[:, None, None] + offset[:, None, None])
    means, deviation = clean.mean((2, 3)), clean.var((0, 2, 3), unbiased=False).sqrt()
    assert shift.mean == pytest.approx(float((((scale - 1) * means + offset).abs() / deviation).mean()), rel=1e-9)
    assert shift.deviation == pytest.approx(2 * np.log(2) / 3, rel=1e-9)  # |log 2|, |log 1/2|, |log 1|


def test_the_channels_are_where_they_are_said_to_be():
    clean, perturbed = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    shift = moment_shift(clean, perturbed, channel_dim=1)
    np.testing.assert_allclose([shift.mean, shift.deviation], numpy_shift(clean, perturbed, 1), rtol=1e-9)


def test_flat_channels_are_left_out():
    clean = torch.randn(4, 4, 6, 6)
    clean[:, 2] = 1.0
    shift = moment_shift(clean, clean + 0.5)
    others = [0, 1, 3]
    assert shift.kept == 0.75
    assert shift.mean == pytest.approx(numpy_shift(clean[:, others], clean[:, others] + 0.5, 1)[0], rel=1e-6)
    assert moment_shift(torch.ones(2, 3), torch.zeros(2, 3)) == (0, 0, 0)


def test_a_channel_that_becomes_flat_counts_down_to_the_floor():
    clean = torch.randn(8, 1, 8, 8)
    assert moment_shift(clean, torch.zeros_like(clean)).deviation == pytest.approx(np.log(100), rel=1e-6)


@pytest.mark.parametrize('shapes', [((2, 3), (2, 4)), ((3, ), (3, ))])
def test_wrong_shapes_are_named(shapes):
    with pytest.raises(ValueError, match=r'one shape of at least \(N, C\)'):
        moment_shift(*map(torch.zeros, shapes))


def test_sign_noise_is_as_large_as_the_perturbation_everywhere():
    clean = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    change = torch.randn_like(clean)
    noise = draw_sign_noise(clean, clean + change, torch.Generator().manual_seed(0)) - clean
    torch.testing.assert_close(noise.abs(), change.abs())
    # 3072 fair signs: the mean is within 5 / sqrt(3072) = 0.09 of 0.
    assert abs(float((noise / change).mean())) < 0.09


def afan(**tap):
    return dict(taps=dict(s=dict(dict(module='backbone.layer1', step_size=0.1), **tap)))


@pytest.fixture
def batches(tiny_batch):
    return [tiny_batch(4, seed=1), tiny_batch(2, seed=2)]


def test_step_of_size_0_moves_nothing(tiny_classifier, batches):
    result = measure_statistics_shift(tiny_classifier(afan=afan(step_size=0)).eval(), batches, 's')
    assert len(set(result['losses'][arm] for arm in ('clean', 'additive', 'noise'))) == 1
    assert result['relative_size'] == 0
    assert list(result['layers']) == list(ARMS)
    for arm in ARMS:
        assert list(result['layers'][arm]) == ['backbone.layer1', 'backbone.layer2', 'backbone.layer3',
                                               'backbone.layer4', 'neck', 'head']
        for shift in result['layers'][arm].values():  # what is re-injected goes through a division and back
            limit = 1e-5 if 're-injected' in arm else 0
            assert shift.mean <= limit and shift.deviation <= limit


def test_layers_against_plain_forward_hooks(tiny_classifier, tiny_batch):
    """The attack is that of the pictures; its tail is run again with an ordinary hook, and compared with NumPy."""
    from mmafan.visualization import attack_features
    model, data = tiny_classifier(afan=afan()).eval(), tiny_batch(4)
    clean, adversarial = attack_features(model, data, 's')
    prepared = model.data_preprocessor(data, False)
    outputs, losses = {}, {}
    for name, feature in (('clean', clean), ('perturbed', clean + 0.5 * (adversarial - clean))):
        handles = [model.backbone.layer1.register_forward_hook(lambda *_, f=feature: f),
                   model.backbone.layer3.register_forward_hook(lambda *a, n=name: outputs.update({n: a[2].clone()}))]
        with torch.no_grad():
            losses[name] = model(**prepared, mode='loss')['loss'].item()
        for handle in handles:
            handle.remove()
    result = measure_statistics_shift(model, [prepared], 's', strength=0.5, modules=['backbone.layer3'])
    shifts = result['layers']['additive']
    assert list(shifts) == ['backbone.layer1', 'backbone.layer3']
    expected = moment_shift(clean, clean + 0.5 * (adversarial - clean))
    assert shifts['backbone.layer1'] == pytest.approx(expected, rel=1e-4)
    assert shifts['backbone.layer3'] == pytest.approx(moment_shift(outputs['clean'], outputs['perturbed']), rel=1e-4)
    assert [result['losses'][k] for k in ('clean', 'additive')] == pytest.approx(list(losses.values()), rel=1e-5)
    assert result['losses']['additive'] > result['losses']['noise']


def test_the_model_is_left_as_it_was(tiny_classifier, batches):
    model = tiny_classifier(afan=afan()).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    measure_statistics_shift(model, batches, 's')
    assert not model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_inputs_and_the_input_of_a_module_can_be_taps(tiny_classifier, tiny_batch):
    taps = dict(x=dict(module='inputs', step_size=0.1), s=dict(module='backbone.layer3', at='input', step_size=0.1))
    model = tiny_classifier(afan=dict(taps=taps)).eval()
    found = {tap: list(measure_statistics_shift(model, [tiny_batch(2)], tap)['layers']['additive']) for tap in taps}
    assert found['x'][:3] == ['inputs', 'backbone.conv1', 'backbone.layer1'] and found['x'][-1] == 'head'
    assert found['s'] == ['backbone.layer3 (input)', 'backbone.layer3', 'backbone.layer4', 'neck', 'head']


@pytest.mark.parametrize('fields, sentence', [
    (dict(tap='t'), r"tap must be one of \('s',\), got 't'"),
    (dict(strength=0), r'strength must be in \(0, 1\], got 0'),
    (dict(modules=['backbone.layer5']), "layers must be modules of .* got 'backbone.layer5'; did you mean"),
    (dict(modules=['backbone.conv1']), r"after the tap at 'backbone.layer1', but 'backbone.conv1' does not; such as"),
])
def test_wrong_arguments_are_named(tiny_classifier, tiny_batch, fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        measure_statistics_shift(tiny_classifier(afan=afan()).eval(), [tiny_batch(2)], **dict(dict(tap='s'), **fields))


@pytest.mark.parametrize('tap, layers', [
    (dict(module='backbone.layer3', step_size=0.1), {'backbone.layer4', 'neck', 'rpn_head'}),
    (dict(module='roi_head.bbox_head.shared_fcs', step_size=0.1, losses=('loss_cls', 'loss_bbox')),
     {'roi_head.bbox_head.fc_cls', 'roi_head.bbox_head.fc_reg'}),
])
def test_detector(tap, layers):
    """Every arm sees the proposals and the sampled boxes of the clean pass, else the outputs would differ in shape."""
    pytest.importorskip('mmdet', reason='a model of mmdet')
    from tests.detectors import build, make_batch
    model = build('faster_rcnn', dict(taps=dict(s=tap))).eval()
    result = measure_statistics_shift(model, [make_batch()], 's')
    for arm in ARMS:
        assert layers < set(result['layers'][arm])
        assert all(0 < s.mean < 50 and 0 < s.kept <= 1 for s in result['layers'][arm].values())


def test_segmentor():
    pytest.importorskip('mmseg', reason='a model of mmseg')
    from tests.segmentors import build, make_batch
    model = build('deeplabv3plus', dict(taps=dict(s=dict(module='backbone.layer3', step_size=0.1)))).eval()
    result = measure_statistics_shift(model, [make_batch()], 's')
    assert {'backbone.layer3', 'backbone.layer4', 'decode_head.conv_seg'} < set(result['layers']['additive'])
    assert result['losses']['additive'] > result['losses']['clean']
