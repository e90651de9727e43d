"""Steps, projections, random starts and strengths, against NumPy; each sample for itself."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from mmafan.functional import (ascend, draw_random_start, draw_strengths, finite_samples, mix_strength, project_l2,
                               project_linf, sample_std, strongest_gradients)

SHAPES = [(5, 7), (4, 3, 2, 5), (3, 6, 4), (2, 3, 2, 2, 2), (4, )]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}
PRECISIONS = pytest.mark.parametrize('dtype', list(TOLERANCE), ids=['float64', 'float32'])
HALVES = pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=['float16', 'bfloat16'])
EVERY_SHAPE = pytest.mark.parametrize('shape', SHAPES, ids=str)


def rows(array):
    return array.reshape(array.shape[0], -1)


def column(values, like):
    return np.asarray(values).reshape(-1, *[1] * (like.ndim - 1))


# ---------------------------------------------------------------- the oracles, sample by sample
def numpy_ascend(feature, gradient, step_size, norm):
    out = feature.copy()
    for n in range(len(feature)):
        g = gradient[n]
        if not np.all(np.isfinite(g)):
            continue
        if norm == 'linf':
            out[n] = feature[n] + step_size * np.where(g > 0, 1.0, np.where(g < 0, -1.0, 0.0))
        else:
            length = math.sqrt(float(np.sum(g.astype(np.longdouble)**2)))
            out[n] = feature[n] + (step_size * g / length if length else 0)
    return out


def numpy_project_l2(perturbation, radius):
    out = perturbation.copy()
    for n in range(len(out)):
        length = math.sqrt(float(np.sum(np.square(out[n], dtype=np.longdouble))))
        if length > radius:
            out[n] = out[n] / length * radius
    return out


def numpy_std(feature):
    out = []
    for n in range(len(feature)):
        values = [float(v) for v in np.ravel(feature[n])]
        mean = math.fsum(values) / len(values)
        out.append(math.sqrt(math.fsum((v - mean)**2 for v in values) / len(values)))
    return column(out, feature)


def same(tensor, array, dtype):
    assert tensor.dtype == dtype
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(tensor.double().numpy(), array, rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------- formulas
@PRECISIONS
@EVERY_SHAPE
@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_ascend(norm, shape, dtype):
    feature, gradient = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype) * 1e-3
    gradient.flatten()[::3] = 0
    expected = numpy_ascend(feature.double().numpy(), gradient.double().numpy(), 0.3, norm)
    same(ascend(feature, gradient, 0.3, norm), expected, dtype)


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_ascend_raises_a_linear_loss_by_the_dual_norm(norm):
    gradient = torch.randn(4, 3, 5, dtype=torch.float64)
    gain = ((ascend(torch.zeros_like(gradient), gradient, 0.2, norm)) * gradient).flatten(1).sum(1)
    dual = gradient.flatten(1).norm(p=1 if norm == 'linf' else 2, dim=1)
    torch.testing.assert_close(gain, 0.2 * dual)


@pytest.mark.parametrize('scale', [1e-30, 1e-12, 1e12, 1e30])
@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_ascend_does_not_depend_on_the_scale_of_the_gradient(norm, scale):
    gradient = torch.randn(3, 50)
    reference = ascend(torch.zeros(3, 50), gradient, 1.0, norm)
    torch.testing.assert_close(ascend(torch.zeros(3, 50), gradient * scale, 1.0, norm), reference)


def test_ascend_takes_a_step_size_per_sample():
    sizes = torch.tensor([0.1, 0.0, 2.0]).reshape(3, 1, 1)
    gradient = torch.randn(3, 4, 5)
    torch.testing.assert_close(ascend(torch.zeros(3, 4, 5), gradient, sizes), sizes * gradient.sign())


@PRECISIONS
@EVERY_SHAPE
def test_project_linf(shape, dtype):
    perturbation = torch.randn(shape, dtype=dtype)
    same(project_linf(perturbation, 0.4), np.clip(perturbation.double().numpy(), -0.4, 0.4), dtype)


@PRECISIONS
@EVERY_SHAPE
def test_project_l2(shape, dtype):
    perturbation = torch.randn(shape, dtype=dtype)
    perturbation[0] *= 1e-2  # inside of the ball
    radius = 0.5
    result = project_l2(perturbation, radius)
    same(result, numpy_project_l2(perturbation.double().numpy(), radius), dtype)
    assert torch.equal(result[0], perturbation[0])


@pytest.mark.parametrize('project', [project_linf, project_l2])
def test_projections_take_a_radius_per_sample_and_are_idempotent(project):
    perturbation = torch.randn(3, 4, 5, dtype=torch.float64) * 3
    radius = torch.tensor([0.1, 5.0, 0.0], dtype=torch.float64).reshape(3, 1, 1)
    once = project(perturbation, radius)
    torch.testing.assert_close(project(once, radius), once)
    for n, r in enumerate([0.1, 5.0, 0.0]):
        torch.testing.assert_close(once[n:n + 1], project(perturbation[n:n + 1], r))
    assert once[2].abs().max() == 0 and once[1].abs().max() > 1


@PRECISIONS
@EVERY_SHAPE
def test_mix_strength(shape, dtype):
    clean, adversarial = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    a, b = clean.double().numpy(), adversarial.double().numpy()
    same(mix_strength(clean, adversarial, 0.25), 0.75 * a + 0.25 * b, dtype)
    strengths = torch.linspace(0, 1, shape[0], dtype=dtype).reshape(-1, *[1] * (len(shape) - 1))
    expected = (1 - strengths.double().numpy()) * a + strengths.double().numpy() * b
    same(mix_strength(clean, adversarial, strengths), expected, dtype)


def test_mix_strength_has_exact_ends():
    clean, adversarial = torch.randn(4, 8), torch.randn(4, 8)
    assert torch.equal(mix_strength(clean, adversarial, 0.0), clean)
    assert torch.equal(mix_strength(clean, clean, 0.37), clean)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(mix_strength(clean, adversarial, 0.25), mix_strength(adversarial, clean, 0.25))


@PRECISIONS
@EVERY_SHAPE
def test_sample_std(shape, dtype):
    feature = torch.randn(shape, dtype=dtype) * 3 + 1
    result = sample_std(feature)
    assert result.shape == (shape[0], *[1] * (len(shape) - 1))
    same(result, numpy_std(feature.double().numpy()), dtype)


def test_sample_std_is_a_constant():
    feature = torch.randn(2, 3, requires_grad=True)
    assert not sample_std(feature).requires_grad


@EVERY_SHAPE
def test_finite_samples(shape):
    gradient = torch.randn(shape)
    gradient[0].reshape(-1)[0] = float('-inf')
    gradient[1].reshape(-1)[-1] = float('nan')
    expected = [bool(np.isfinite(row).all()) for row in rows(gradient.numpy())]
    assert finite_samples(gradient).tolist() == expected
    assert expected[:2] == [False, False] and all(expected[2:])


def test_mix_strength_gradients():
    clean, adversarial = (torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    strength = torch.rand(3, 1, 1, dtype=torch.float64, requires_grad=True)
    assert gradcheck(mix_strength, (clean, adversarial, strength))


@pytest.mark.parametrize('project', [project_linf, project_l2])
def test_projection_gradients(project):
    # Far from the kink at the radius, where no derivative exists.
    perturbation = torch.tensor([[0.9, -0.8, 0.7], [0.1, -0.2, 0.05]], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda p: project(p, 0.5), (perturbation, ))


# ---------------------------------------------------------------- properties
FUNCTIONS = {
    'ascend_linf': lambda f, g: ascend(f, g, 0.3),
    'ascend_l2': lambda f, g: ascend(f, g, 0.3, 'l2'),
    'project_linf': lambda f, g: project_linf(g, 0.5),
    'project_l2': lambda f, g: project_l2(g, 0.5),
    'mix_strength': lambda f, g: mix_strength(f, g, 0.3),
    'sample_std': lambda f, g: sample_std(f),
    'finite_samples': lambda f, g: finite_samples(g),
}
EVERY_FUNCTION = pytest.mark.parametrize('function', list(FUNCTIONS.values()), ids=list(FUNCTIONS))


@EVERY_FUNCTION
@EVERY_SHAPE
def test_samples_are_independent(function, shape):
    feature, gradient = torch.randn(shape), torch.randn(shape)
    gradient[-1] = float('inf')
    whole = function(feature, gradient)
    for keep in ([0], [0, 1], [1, 0]):
        torch.testing.assert_close(function(feature[keep], gradient[keep]), whole[keep], rtol=0, atol=0, equal_nan=True)


@EVERY_FUNCTION
@EVERY_SHAPE
def test_inputs_are_not_modified(function, shape):
    feature, gradient = torch.randn(shape), torch.randn(shape)
    gradient[0] = float('nan')
    before = feature.clone(), gradient.clone()
    result = function(feature, gradient)
    result.zero_()
    assert torch.equal(feature, before[0])
    assert torch.equal(gradient[1:], before[1][1:]) and gradient[0].isnan().all()


@EVERY_FUNCTION
@pytest.mark.parametrize('shape', [(0, 7), (0, 3, 2, 2), (0, 6, 4)], ids=str)
def test_empty_batch(function, shape):
    assert function(torch.zeros(shape), torch.zeros(shape)).numel() == 0


@HALVES
@EVERY_FUNCTION
def test_half_precision_is_close_to_single(function, dtype):
    feature, gradient = torch.randn(3, 4, 5).to(dtype), torch.randn(3, 4, 5).to(dtype)
    result = function(feature, gradient)
    reference = function(feature.float(), gradient.float())
    assert result.dtype == (torch.bool if reference.dtype is torch.bool else dtype)
    torch.testing.assert_close(result.float(), reference.float(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), float('-inf')])
@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_sample_without_finite_gradient_stays_where_it_is(norm, bad):
    feature, gradient = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    gradient[1, 2, 0] = bad
    result = ascend(feature, gradient, 0.5, norm)
    assert torch.equal(result[1], feature[1])
    assert torch.isfinite(result).all()
    assert (result[0] != feature[0]).any() and (result[2] != feature[2]).any()


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_zero_gradient_does_not_move(norm):
    feature = torch.randn(2, 5)
    assert torch.equal(ascend(feature, torch.zeros(2, 5), 0.5, norm), feature)


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_gradient_wider_than_the_feature_is_not_rounded_first(norm):
    """Gradients of a half-precision tail may lie outside of the range of float16."""
    gradient = torch.tensor([[3e5, -4e5], [3e-9, -4e-9]])
    result = ascend(torch.zeros(2, 2, dtype=torch.float16), gradient, 1.0, norm)
    row = [1.0, -1.0] if norm == 'linf' else [0.6, -0.8]
    torch.testing.assert_close(result.float(), torch.tensor([row, row]), rtol=0, atol=1e-3)


@pytest.mark.parametrize('function', [
    lambda: ascend(torch.zeros(1, 2), torch.zeros(1, 2), 0.1, 'l1'),
    lambda: draw_random_start(torch.zeros(1, 2), 0.1, 'l1'),
], ids=['ascend', 'draw_random_start'])
def test_unknown_norm(function):
    with pytest.raises(ValueError, match=r"norm must be one of \('linf', 'l2'\), got 'l1'"):
        function()


def test_shapes_that_differ():
    with pytest.raises(ValueError, match=r'gradient must have the shape of feature, \(1, 2\), got \(2, 1\)'):
        ascend(torch.zeros(1, 2), torch.zeros(2, 1), 0.1)


# ---------------------------------------------------------------- random draws
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_random_start_lies_in_the_ball(norm, dtype):
    feature = torch.zeros(50, 3, 4, dtype=dtype)
    start = draw_random_start(feature, 0.25, norm)
    assert start.shape == feature.shape and start.dtype == dtype
    flat = start.double().flatten(1)
    size = flat.abs().amax(1) if norm == 'linf' else flat.norm(dim=1)
    assert (size <= 0.25 * (1 + 4 * torch.finfo(dtype).eps)).all()
    assert size.max() > 0.2


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_random_start_of_one_sample_and_of_none(norm):
    assert 0 < draw_random_start(torch.zeros(1, 3), 0.25, norm).norm() <= 0.25 * math.sqrt(3)
    assert draw_random_start(torch.zeros(0, 3), 0.25, norm).shape == (0, 3)


def test_random_start_linf_is_uniform():
    values = draw_random_start(torch.zeros(100, 100), 2.0).flatten().double().numpy()
    counts, _ = np.histogram(values, bins=10, range=(-2, 2))
    assert counts.sum() == 10000
    # 0.999 quantile of chi-square with 9 degrees of freedom: 27.88 (scipy.stats.chi2.ppf(0.999, 9))
    assert ((counts - 1000)**2 / 1000).sum() < 27.88
    assert abs(values.mean()) < 4 * (2 / math.sqrt(3)) / 100


@pytest.mark.parametrize('dimension', [1, 2, 5])
def test_random_start_l2_is_uniform_in_the_ball(dimension):
    start = draw_random_start(torch.zeros(5000, dimension), 3.0, 'l2').double()
    # The share of the volume inside of the drawn length is uniform, and no direction is preferred.
    share = ((start.norm(dim=1) / 3)**dimension).numpy()
    counts, _ = np.histogram(share, bins=10, range=(0, 1))
    assert ((counts - 500)**2 / 500).sum() < 27.88
    assert start.mean(0).abs().max() < 4 * 3 / math.sqrt(5000)


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_random_start_takes_a_radius_per_sample_and_a_generator(norm):
    radius = torch.tensor([1.0, 0.0, 10.0]).reshape(3, 1)
    first = draw_random_start(torch.zeros(3, 40), radius, norm, torch.Generator().manual_seed(5))
    state = torch.get_rng_state()
    again = draw_random_start(torch.zeros(3, 40), radius, norm, torch.Generator().manual_seed(5))
    assert torch.equal(first, again) and torch.equal(torch.get_rng_state(), state)
    other = draw_random_start(torch.zeros(3, 40), radius, norm, torch.Generator().manual_seed(6))
    assert not torch.equal(first, other)
    assert first[1].abs().max() == 0 and first[2].abs().max() > first[0].abs().max()


@pytest.mark.parametrize('shape', [(0, 3), (0, 3, 2, 2)], ids=str)
@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_random_start_of_an_empty_batch(norm, shape):
    assert draw_random_start(torch.zeros(shape), 1.0, norm).shape == shape


def test_draw_strengths_are_equally_likely():
    draws = draw_strengths((0.25, 0.5, 0.75, 1.0), 8000, torch.Generator().manual_seed(0))
    assert draws.dtype == torch.long and draws.shape == (8000, )
    counts = np.bincount(draws.numpy(), minlength=4)
    assert len(counts) == 4
    # 0.999 quantile of chi-square with 3 degrees of freedom: 16.27 (scipy.stats.chi2.ppf(0.999, 3))
    assert ((counts - 2000)**2 / 2000).sum() < 16.27
    # Draws of neighbouring samples are independent of each other: chi-square, 15 degrees.
    pairs = np.bincount((draws[::2] * 4 + draws[1::2]).numpy(), minlength=16)
    assert ((pairs - 250)**2 / 250).sum() < 37.70  # scipy.stats.chi2.ppf(0.999, 15)


def test_draw_strengths_ends():
    assert draw_strengths((1.0, ), 5).tolist() == [0] * 5
    assert draw_strengths((0.5, 1.0), 0).shape == (0, )
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(1)
    assert not torch.equal(draw_strengths((0.5, 1.0), 50, generator), draw_strengths((0.5, 1.0), 50, generator))
    assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------- the stronger of several losses
@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_the_strongest_gradient_is_the_one_of_the_largest_rise(norm):
    """An independent computation: walk a tiny way along each direction on the linear loss ``<g, f>``."""
    random = np.random.RandomState(0)
    groups = [random.randn(6, 5), random.randn(6, 5), random.randn(6, 5) * 3]
    total = sum(groups)
    found = strongest_gradients([[torch.tensor(g)] for g in groups], [torch.tensor(total)], norm)[0].numpy()
    for sample in range(6):
        rises = []
        for gradient in groups:
            direction = np.sign(gradient[sample]) if norm == 'linf' else (
                gradient[sample] / np.linalg.norm(gradient[sample]))
            rises.append(float(total[sample] @ direction))
        np.testing.assert_array_equal(found[sample], groups[int(np.argmax(rises))][sample])


def test_levels_of_one_batch_choose_together():
    """Two levels: apart, each would choose another loss."""
    first = [torch.tensor([[1.0]]), torch.tensor([[0.1]])]
    second = [torch.tensor([[0.0]]), torch.tensor([[-5.0]])]
    total = [a + b for a, b in zip(first, second)]
    chosen = strongest_gradients([first, second], total)
    assert [float(c) for c in chosen] == [0.0, -5.0]
    other_rows = strongest_gradients([[first[0], torch.tensor([[1.0], [1.0]])], [second[0], torch.zeros(2, 1)]],
                                     [total[0], torch.tensor([[1.0], [1.0]])])
    assert float(other_rows[0]) == 1.0 and other_rows[1].flatten().tolist() == [1.0, 1.0]


def test_a_loss_without_gradient_is_not_chosen():
    gradient = torch.tensor([[2.0, -1.0]])
    assert torch.equal(strongest_gradients([[None], [gradient]], [gradient])[0], gradient)
    assert strongest_gradients([[None]], [None]) == [None]
    nothing, second = strongest_gradients([[None, gradient]], [None, gradient])
    assert nothing is None and torch.equal(second, gradient)
