"""How many samples take part, step by step."""
from __future__ import annotations

from fractions import Fraction

import pytest

from mmafan.models.participation import num_chosen, participation_weight
from mmafan.tap_config import TapConfig


@pytest.mark.parametrize('size', [1, 2, 3, 8, 32])
@pytest.mark.parametrize('fraction', [0.125, 0.3, 0.5, 0.9])
@pytest.mark.parametrize('least', [1, 2])
def test_the_mean_number_of_samples_is_the_fraction(size, fraction, least):
    counts = [num_chosen(size, fraction, least, iteration) for iteration in range(2000)]
    assert sum(counts) / 2000 == pytest.approx(size * fraction, abs=2e-3 * size)
    assert all(c == 0 or min(least, size) <= c <= size for c in counts)
    assert max(counts) - min(c for c in counts if c) <= 1


@pytest.mark.parametrize('size, fraction, least', [(2, 0.125, 1), (2, 0.25, 2), (4, 0.2, 2), (8, 0.5, 1), (3, 0.1, 1)])
def test_the_weights_of_the_steps_have_mean_one(size, fraction, least):
    """An adversarial term weighs the inverse of the share of steps it is part of."""
    weight = participation_weight(size, TapConfig('backbone', 0.1, fraction=fraction), least)
    steps = 10 * Fraction(str(fraction)).denominator
    active = sum(num_chosen(size, fraction, least, i) > 0 for i in range(steps))
    assert weight * active / steps == pytest.approx(1, abs=1e-9)


def test_all_samples_weigh_one():
    assert participation_weight(2, TapConfig('backbone', 0.1), 2) == 1.0
