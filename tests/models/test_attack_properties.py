"""What holds for the attack of any tap, and for the share of samples that takes part."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmafan.models.attack import Attack
from mmafan.models.participation import choose_samples, num_chosen
from mmafan.replay.rng import derived_generator
from mmafan.tap_config import TapConfig

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@st.composite
def taps(draw):
    """Draw a tap of any kind of attack."""
    strengths = draw(st.lists(st.floats(0.05, 1), min_size=1, max_size=4))
    fields = dict(
        step_size=draw(st.sampled_from([0.0, 0.01, 0.5])), num_steps=draw(st.integers(1, 3)),
        radius=draw(st.sampled_from([None, 0.3, 0.02])), norm=draw(st.sampled_from(['linf', 'l2'])),
        strengths=strengths, reinject=[draw(st.booleans()) for _ in strengths],
        strength_sampling=draw(st.sampled_from(['all', 'random'])))
    fields['random_start'] = fields['radius'] is not None and draw(st.booleans())
    return TapConfig('neck', **fields)


def attack_of(tap, dtype, seed, zero, scale=1.0):
    """Attack features with a linear loss; samples named in ``zero`` have no gradient."""
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(4, 3, 2, 2, generator=generator).to(dtype) for _ in range(2)]
    gradients = [torch.randn(4, 3, 2, 2, generator=generator).to(dtype) for _ in features]
    for gradient in gradients:
        gradient[list(zero)] = 0
    attack = Attack(tap, features, derived_generator(seed), scale)
    attack.run(None if tap.random_start else gradients, lambda _: gradients)
    return features, attack


def lengths(value, norm):
    rows = value.double().numpy().reshape(len(value), -1)
    return np.abs(rows).max(axis=1) if norm == 'linf' else np.sqrt((rows**2).sum(axis=1))


@given(taps(), st.sampled_from(DTYPES), st.integers(0, 99), st.sets(st.integers(0, 3)))
def test_a_perturbation_is_as_long_as_its_steps_and_stays_in_the_ball(tap, dtype, seed, zero):
    features, attack = attack_of(tap, dtype, seed, zero)
    for clean, adversarial in zip(features, attack.adversarial):
        assert adversarial.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
        found = lengths(adversarial - clean, tap.norm)
        if tap.radius is not None:
            assert (found <= tap.radius + 1e-5).all()
        if not tap.random_start:  # a linear loss has the same gradient everywhere
            steps = tap.num_steps * tap.step_size
            expected = np.full(4, steps if tap.radius is None else min(steps, tap.radius))
            expected[list(zero)] = 0
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert int(attack.num_skipped) == 0


@given(taps(), st.sampled_from(DTYPES), st.integers(0, 99), st.sampled_from([1.0, 0.25]))
def test_each_pass_goes_its_share_of_the_way(tap, dtype, seed, scale):
    features, attack = attack_of(tap, dtype, seed, (), scale)
    passes = list(attack.passes())
    assert len(passes) == (1 if tap.strength_sampling == 'random' else len(tap.strengths))
    for wanted, mixed in passes:
        for clean, adversarial, perturbed in zip(attack.clean, attack.adversarial, mixed):
            assert perturbed.dtype == dtype and perturbed.shape == clean.shape
            shares = [(s, r) for s, r in zip(tap.strengths, tap.reinject)]
            for n in range(4):  # each sample is one of what the strengths give
                candidates = []
                for strength, reinject in shares if wanted.strength is None else [(wanted.strength, wanted.reinject)]:
                    f, f_i = clean[n].double(), (clean + scale * strength * (adversarial - clean))[n].double()
                    if reinject:
                        mu, sigma = f.mean(0), (f.var(0) + 1e-5).sqrt()
                        f_i = (f_i.var(0) + 1e-5).sqrt() * (f - mu) / sigma + f_i.mean(0)
                    candidates.append(float((perturbed[n].double() - f_i).abs().max()))
                half = dtype in (torch.float16, torch.bfloat16)
                assert min(candidates) <= (3e-2 if half else 1e-4)


@given(st.integers(1, 64), st.floats(0.01, 1), st.integers(1, 4), st.integers(0, 10**6))
def test_the_number_of_samples_keeps_its_rhythm(size, fraction, least, first):
    counts = [num_chosen(size, fraction, least, first + k) for k in range(30)]
    unit = min(least, size)
    assert all(count == 0 or unit <= count <= size for count in counts)
    for steps in range(1, 31):  # never more than one unit away from the mean
        assert abs(sum(counts[:steps]) - steps * size * fraction) <= max(unit, 1) + 1e-3


@given(st.integers(1, 40), st.floats(0.01, 1), st.integers(1, 3), st.integers(0, 1000), st.integers(0, 3))
def test_chosen_samples_are_different_ones_and_the_same_after_a_resume(size, fraction, least, iteration, rank):
    tap = TapConfig('neck', 0.1, fraction=fraction)
    chosen = choose_samples(size, tap, least, iteration, rank, 0)
    count = num_chosen(size, fraction, least, iteration)
    if chosen is None:
        assert count == size
        return
    assert len(chosen.numbers) == count < size and chosen.numbers == sorted(set(chosen.numbers))
    assert all(0 <= number < size for number in chosen.numbers)
    assert choose_samples(size, tap, least, iteration, rank, 0).numbers == chosen.numbers


def test_samples_take_turns():
    tap, seen = TapConfig('neck', 0.1, fraction=0.25), set()
    for iteration in range(60):
        seen.update(choose_samples(8, tap, 1, iteration, 0, 0).numbers)
    assert seen == set(range(8))
    assert math.isclose(sum(num_chosen(8, 0.25, 1, k) for k in range(60)) / 60, 2)
    with pytest.raises(ValueError, match='fraction'):
        TapConfig('neck', 0.1, fraction=0)
