"""Moments and their re-injection, against NumPy loops written from the formulas."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from mmafan.functional import MOMENTS, feature_moments, normalize_feature, reinject_statistics

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
PRECISIONS = pytest.mark.parametrize('dtype', list(TOLERANCE), ids=['float64', 'float32'])
# shape, channel_dim given, dimension that holds the channels
LAYOUTS = [((4, 6), None, 1), ((3, 6, 2, 5), None, 1), ((3, 5, 6), None, 2), ((3, 6, 5), 1, 1), ((3, 2, 5, 6), -1, 3),
           ((2, 6, 2, 2, 3), None, 1)]
CASES = [(m, *layout) for m in MOMENTS for layout in LAYOUTS if not (m == 'instance' and len(layout[0]) == 2)]
EVERY_CASE = pytest.mark.parametrize('moments, shape, channel_dim, channel', CASES, ids=str)
GROUPS = 3


def members(moments, index, shape, channel):
    """Indices of all elements whose statistics the element at ``index`` shares."""
    size = shape[channel] // GROUPS

    def shares(other):
        same_sample, same_channel = other[0] == index[0], other[channel] == index[channel]
        same_position = all(o == i for d, (o, i) in enumerate(zip(other, index)) if d not in (0, channel))
        return {
            'channel': same_sample and same_position,
            'batch': same_channel,
            'instance': same_sample and same_channel,
            'group': same_sample and other[channel] // size == index[channel] // size,
        }[moments]

    return [other for other in np.ndindex(*shape) if shares(other)]


def numpy_moments(feature, moments, channel, eps=1e-5):
    """Mean and deviation of every element, by the definition."""
    mean, std = np.zeros(feature.shape), np.zeros(feature.shape)
    for index in np.ndindex(*feature.shape):
        values = [float(feature[other]) for other in members(moments, index, feature.shape, channel)]
        mean[index] = math.fsum(values) / len(values)
        freedom = len(values) - 1 if moments == 'channel' else len(values)
        std[index] = math.sqrt(math.fsum((v - mean[index])**2 for v in values) / freedom + eps)
    return mean, std


def draw(shape, dtype, scale=2.0, shift=0.5):
    return torch.randn(shape, dtype=dtype) * scale + shift


def options(channel_dim):
    return dict(num_groups=GROUPS, channel_dim=channel_dim)


def same(tensor, array, dtype):
    assert tensor.dtype == dtype
    np.testing.assert_allclose(
        torch.broadcast_to(tensor, array.shape).double().numpy(), array, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@PRECISIONS
@EVERY_CASE
def test_feature_moments(moments, shape, channel_dim, channel, dtype):
    feature = draw(shape, dtype)
    mean, std = feature_moments(feature, moments, **options(channel_dim))
    expected = numpy_moments(feature.double().numpy(), moments, channel)
    same(mean, expected[0], dtype)
    same(std, expected[1], dtype)


@PRECISIONS
@EVERY_CASE
def test_reinject_statistics(moments, shape, channel_dim, channel, dtype):
    clean, perturbed = draw(shape, dtype), draw(shape, dtype, 0.7, -1.0)
    mean, std = numpy_moments(clean.double().numpy(), moments, channel)
    other_mean, other_std = numpy_moments(perturbed.double().numpy(), moments, channel)
    expected = other_std * (clean.double().numpy() - mean) / std + other_mean
    result = reinject_statistics(clean, perturbed, moments, **options(channel_dim))
    assert result.shape == clean.shape
    same(result, expected, dtype)


def test_two_channels_are_enough():
    mean, std = feature_moments(torch.tensor([[1.0, 3.0], [-2.0, 6.0]]), 'channel', eps=1.0)
    torch.testing.assert_close(mean, torch.tensor([[2.0], [2.0]]))
    torch.testing.assert_close(std, torch.tensor([[3.0], [33.0]]).sqrt())


@pytest.mark.parametrize('moments', MOMENTS)
def test_result_has_the_moments_of_the_perturbed_feature_and_the_content_of_the_clean_one(moments):
    clean, perturbed = draw((4, 6, 3, 3), torch.float64), draw((4, 6, 3, 3), torch.float64, 0.7, -1.0)
    result = reinject_statistics(clean, perturbed, moments, eps=0.0, num_groups=GROUPS)
    wanted_mean, wanted_std = feature_moments(perturbed, moments, 0.0, GROUPS)
    mean, std = feature_moments(clean, moments, 0.0, GROUPS)
    other_mean, other_std = feature_moments(result, moments, 0.0, GROUPS)
    torch.testing.assert_close(other_mean, wanted_mean)
    torch.testing.assert_close(other_std, wanted_std)
    torch.testing.assert_close((result - other_mean) / other_std, (clean - mean) / std)


@pytest.mark.parametrize('moments', MOMENTS)
def test_arguments_are_not_interchangeable(moments):
    clean, perturbed = draw((4, 6, 3, 3), torch.float64), draw((4, 6, 3, 3), torch.float64)
    one = reinject_statistics(clean, perturbed, moments, num_groups=GROUPS)
    other = reinject_statistics(perturbed, clean, moments, num_groups=GROUPS)
    assert (one - other).abs().max() > 0.5


@pytest.mark.parametrize('moments', MOMENTS)
def test_own_statistics_give_the_clean_feature_back(moments):
    clean = draw((4, 6, 3, 3), torch.float64)
    torch.testing.assert_close(reinject_statistics(clean, clean.clone(), moments, num_groups=GROUPS), clean)


def test_the_four_moments_are_four_different_things():
    clean, perturbed = draw((4, 6, 3, 3), torch.float64), draw((4, 6, 3, 3), torch.float64, 0.7, -1.0)
    results = [reinject_statistics(clean, perturbed, m, num_groups=GROUPS) for m in MOMENTS]
    for i, one in enumerate(results):
        for other in results[:i]:
            assert (one - other).abs().max() > 1e-2


def test_one_group_per_channel_is_instance_norm_and_the_names_match_torch():
    feature = draw((3, 6, 4, 4), torch.float64)
    mean, std = feature_moments(feature, 'group', num_groups=6)
    for given, wanted in zip((mean, std), feature_moments(feature, 'instance')):
        torch.testing.assert_close(given, wanted)
    torch.testing.assert_close((feature - mean) / std, torch.nn.functional.instance_norm(feature))
    mean, std = feature_moments(feature, 'group', num_groups=2)
    torch.testing.assert_close((feature - mean) / std, torch.nn.functional.group_norm(feature, 2))
    mean, std = feature_moments(feature, 'batch')
    normed = torch.nn.functional.batch_norm(feature, None, None, training=True)
    torch.testing.assert_close((feature - mean) / std, normed)


# ---------------------------------------------------------------- gradients
@pytest.mark.parametrize('channel_dim', [None, 1])
@pytest.mark.parametrize('moments', MOMENTS)
def test_gradients_of_the_moments(moments, channel_dim):
    feature = draw((2, 3, 3), torch.float64).requires_grad_()
    assert gradcheck(lambda f: feature_moments(f, moments, **options(channel_dim)), (feature, ))


@pytest.mark.parametrize('shape', [(3, 6), (2, 3, 2, 2), (2, 4, 3)], ids=str)
@pytest.mark.parametrize('moments', MOMENTS)
def test_gradients_of_the_reinjection(moments, shape):
    if moments == 'instance' and len(shape) == 2:
        with pytest.raises(ValueError, match="moments='instance' needs positions"):
            reinject_statistics(torch.zeros(shape), torch.zeros(shape), moments)
        return
    clean, perturbed = (draw(shape, torch.float64).requires_grad_() for _ in range(2))
    assert gradcheck(lambda c, p: reinject_statistics(c, p, moments, num_groups=GROUPS), (clean, perturbed))


@pytest.mark.parametrize('moments', MOMENTS)
def test_constant_feature_has_finite_gradients(moments):
    clean = torch.ones(2, 6, 2, 2, dtype=torch.float64, requires_grad=True)
    result = reinject_statistics(clean, clean.detach() + 0.5, moments, num_groups=GROUPS)
    result.sum().backward()
    assert torch.isfinite(result).all() and torch.isfinite(clean.grad).all()
    torch.testing.assert_close(result, clean.detach() + 0.5)


# ---------------------------------------------------------------- properties
@pytest.mark.parametrize('moments, shape', [(m, s) for m in ('channel', 'instance', 'group')
                                            for s in [(5, 6), (4, 6, 2, 3), (4, 5, 6)]
                                            if not (m == 'instance' and len(s) == 2)], ids=str)
def test_samples_are_independent(moments, shape):
    clean, perturbed = torch.randn(shape), torch.randn(shape)
    clean[-1] = float('nan')
    whole = reinject_statistics(clean, perturbed, moments, num_groups=GROUPS)
    for keep in ([0], [0, 1], [1, 0, 2]):
        part = reinject_statistics(clean[keep], perturbed[keep], moments, num_groups=GROUPS)
        torch.testing.assert_close(part, whole[keep], rtol=1e-6, atol=1e-6)
    assert torch.isfinite(whole[:-1]).all() and whole[-1].isnan().all()


def test_batch_moments_do_depend_on_the_other_samples():
    clean, perturbed = torch.randn(4, 6, 3, 3), torch.randn(4, 6, 3, 3)
    whole = reinject_statistics(clean, perturbed, 'batch')
    assert (reinject_statistics(clean[:2], perturbed[:2], 'batch') - whole[:2]).abs().max() > 1e-3


@pytest.mark.parametrize('moments', MOMENTS)
def test_inputs_are_not_modified(moments):
    clean, perturbed = torch.randn(3, 6, 2, 2), torch.randn(3, 6, 2, 2)
    before = clean.clone(), perturbed.clone()
    reinject_statistics(clean, perturbed, moments, num_groups=GROUPS).zero_()
    assert torch.equal(clean, before[0]) and torch.equal(perturbed, before[1])


@pytest.mark.parametrize('shape', [(0, 6, 2, 2), (0, 4, 6)], ids=str)
@pytest.mark.parametrize('moments', MOMENTS)
def test_empty_batch(moments, shape):
    """Detection has images without any region; that must not stop a run."""
    result = reinject_statistics(torch.zeros(shape), torch.zeros(shape), moments, num_groups=GROUPS)
    assert result.shape == shape


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('moments', MOMENTS)
def test_half_precision_is_close_to_single(moments, dtype):
    clean, perturbed = draw((4, 6, 3, 3), dtype), draw((4, 6, 3, 3), dtype, 1.5, 0.0)
    result = reinject_statistics(clean, perturbed, moments, num_groups=GROUPS)
    assert result.dtype == dtype
    reference = reinject_statistics(clean.float(), perturbed.float(), moments, num_groups=GROUPS)
    torch.testing.assert_close(result.float(), reference, rtol=5e-2, atol=8e-2)


@pytest.mark.parametrize('moments', MOMENTS)
def test_eps_stands_inside_of_the_root(moments):
    _, std = feature_moments(torch.ones(2, 6, 2, 2, dtype=torch.float64), moments, eps=0.09, num_groups=GROUPS)
    torch.testing.assert_close(std, torch.full_like(std, 0.3))


# ---------------------------------------------------------------- wrong arguments
@pytest.mark.parametrize('call, sentence', [
    (lambda: feature_moments(torch.zeros(2, 3), 'chanel'), "moments must be one of .*'channel'.*, got 'chanel'"),
    (lambda: feature_moments(torch.zeros(3)), r'at least two dimensions \(N, C\), got \(3,\)'),
    (lambda: feature_moments(torch.zeros(3, 4), 'instance'), r"'instance' needs positions .*\(3, 4\)"),
    (lambda: feature_moments(torch.zeros(3, 1, 4, 4)), r'at least 2 channels, got \(3, 1, 4, 4\)'),
    (lambda: feature_moments(torch.zeros(3, 6), 'group', num_groups=4), 'divide the 6 channels .*, got 4'),
    (lambda: reinject_statistics(torch.zeros(2, 3), torch.zeros(3, 2)), r'shape of clean, \(2, 3\), got \(3, 2\)'),
    (lambda: reinject_statistics(torch.zeros(2, 3), torch.zeros(1, 3)), r'shape of clean, \(2, 3\), got \(1, 3\)'),
], ids=['moments', 'one dimension', 'instance', 'one channel', 'groups', 'shapes', 'smaller'])
def test_wrong_arguments(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize('channel_dim', [0, -4, 4, 7, -5])
def test_channel_dim_out_of_range_is_not_wrapped_around(channel_dim):
    """Taken modulo the number of dimensions, 4 would be the samples of a (N, C, H, W) feature."""
    with pytest.raises(ValueError, match=f'channel_dim .*{channel_dim}'):
        feature_moments(torch.zeros(2, 3, 4, 4), channel_dim=channel_dim)


def test_what_is_not_given_is_the_same_for_all():
    """32 groups and 1e-5 inside of the root, as in the authors' code and in torch."""
    generator = torch.Generator().manual_seed(0)
    clean, perturbed = (torch.randn(2, 64, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    clean, perturbed = clean[..., None], perturbed[..., None]
    for moments in (''.join(['gro', 'up']), ''.join(['chan', 'nel'])):  # names made at run time
        options = dict(eps=1e-5, num_groups=32)
        for found, expected in zip(feature_moments(clean, moments), feature_moments(clean, moments, **options)):
            assert torch.equal(found, expected)
        normalized = normalize_feature(clean, moments, **options)
        assert torch.equal(normalize_feature(clean, moments), normalized)
        expected = reinject_statistics(clean, perturbed, moments, **options)
        assert torch.equal(reinject_statistics(clean, perturbed, moments), expected)
        assert torch.equal(reinject_statistics(clean, perturbed, moments, normalized=normalized), expected)
