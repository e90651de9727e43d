"""What holds for any feature, gradient, radius and strength, beside the values that other tests compute."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmafan.functional import (ascend, draw_random_start, draw_strengths, feature_moments, mix_strength, project_l2,
                               project_linf, reinject_statistics, strongest_gradients)

SHAPES = st.sampled_from([(1, 1), (2, 3), (3, 2, 4), (2, 4, 2, 2), (4, 1, 1, 3)])
NORMS = st.sampled_from(['linf', 'l2'])
RADII = st.floats(1e-6, 1e6)


@st.composite
def tensors(draw, shape=SHAPES, special=()):
    """Draw a tensor in float64 of any size of values, some of whose rows are zero, or hold a special value."""
    shape = draw(shape)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    value = torch.randn(shape, generator=generator, dtype=torch.float64) * 10.0**draw(st.integers(-12, 12))
    for row in range(len(value)):
        kind = draw(st.sampled_from(['random', 'random', 'zero', *special]))
        if kind == 'zero':
            value[row] = 0
        elif kind != 'random':
            value[row].view(-1)[-1] = float(kind)
    return value


def lengths(value, norm):
    rows = value.numpy().reshape(len(value), -1)
    return np.abs(rows).max(axis=1) if norm == 'linf' else np.sqrt((rows**2).sum(axis=1))


@given(tensors(), RADII, NORMS)
def test_a_projection_is_the_nearest_point_of_the_ball(value, radius, norm):
    projected = (project_linf if norm == 'linf' else project_l2)(value, radius)
    assert (lengths(projected, norm) <= radius * (1 + 1e-12)).all()
    inside = lengths(value, norm) <= radius
    assert torch.equal(projected[inside], value[inside])
    if norm == 'linf':
        expected = np.minimum(np.maximum(value.numpy(), -radius), radius)
    else:
        factor = np.minimum(1, radius / np.maximum(lengths(value, norm), 1e-300))
        expected = value.numpy() * factor.reshape(-1, *[1] * (value.dim() - 1))
    np.testing.assert_allclose(projected.numpy(), expected, rtol=1e-12)


@given(st.data(), SHAPES, st.floats(0, 1e3), NORMS)
def test_a_step_has_its_length_where_there_is_a_finite_gradient_other_than_zero(data, shape, step_size, norm):
    feature = torch.zeros(shape, dtype=torch.float64)
    gradient = data.draw(tensors(st.just(shape), special=('nan', 'inf', '-inf')))
    moved = ascend(feature, gradient, step_size, norm)
    rows = gradient.numpy().reshape(len(gradient), -1)
    works = np.isfinite(rows).all(axis=1) & (rows != 0).any(axis=1)
    np.testing.assert_allclose(lengths(moved, norm), np.where(works, step_size, 0), rtol=1e-9, atol=1e-300)
    assert not (moved[torch.from_numpy(works)] * gradient[torch.from_numpy(works)] < 0).any()


@given(tensors(), RADII, NORMS, st.integers(0, 2**31))
def test_a_random_start_is_in_the_ball_and_not_at_its_centre(feature, radius, norm, seed):
    start = draw_random_start(feature, radius, norm, torch.Generator().manual_seed(seed))
    assert start.shape == feature.shape and start.dtype == feature.dtype
    assert (lengths(start, norm) <= radius * (1 + 1e-9)).all() and (lengths(start, norm) > 0).all()


@given(st.data(), SHAPES, st.floats(0.001, 1))
def test_a_strength_is_the_share_of_the_way(data, shape, strength):
    clean, adversarial = (data.draw(tensors(st.just(shape))) for _ in range(2))
    mixed = mix_strength(clean, adversarial, strength)
    scale = float(max(clean.abs().max(), adversarial.abs().max()))
    expected = clean.numpy() + strength * (adversarial.numpy() - clean.numpy())
    np.testing.assert_allclose(mixed.numpy(), expected, rtol=0, atol=1e-15 * scale)
    assert torch.equal(mix_strength(clean, adversarial, 1.0), adversarial)


@given(st.integers(1, 5), st.integers(0, 40), st.integers(0, 2**31))
def test_drawn_strengths_are_numbers_of_strengths(count, num_samples, seed):
    drawn = draw_strengths([0.5] * count, num_samples, torch.Generator().manual_seed(seed))
    assert drawn.shape == (num_samples, ) and drawn.dtype == torch.long
    assert all(0 <= number < count for number in drawn.tolist())


@given(tensors(special=('nan', )), NORMS)
def test_the_strongest_of_one_gradient_is_that_one(gradient, norm):
    chosen, = strongest_gradients([[gradient]], [gradient], norm)
    assert torch.equal(chosen.nan_to_num(), gradient.nan_to_num())


@pytest.mark.parametrize('moments', ['channel', 'batch', 'instance', 'group'])
@given(st.data())
def test_reinjected_statistics_are_those_of_the_perturbed_feature(moments, data):
    shape = data.draw(st.sampled_from([(2, 4, 3, 3), (3, 5, 4), (2, 6, 2, 2)]))
    options = dict(eps=0.0, num_groups=2)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    clean, perturbed = (torch.randn(shape, generator=generator, dtype=torch.float64) * 10.0**data.draw(
        st.integers(-3, 3)) for _ in range(2))
    mixed = reinject_statistics(clean, perturbed, moments, **options)
    for found, expected in zip(feature_moments(mixed, moments, **options),
                               feature_moments(perturbed, moments, **options)):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(perturbed.abs().max()))
    torch.testing.assert_close(reinject_statistics(clean, clean, moments, **options), clean, rtol=1e-9, atol=1e-9)
