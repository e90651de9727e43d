"""How many samples take part, step by step."""
from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from mmafan.models.participation import choose_samples, num_chosen, num_chosen_before, participation_weight
from mmafan.tap_config import TapConfig


@pytest.mark.parametrize('size', [1, 2, 3, 8, 32])
@pytest.mark.parametrize('fraction', [0.125, 0.3, 0.5, 0.9])
@pytest.mark.parametrize('least', [1, 2])
def test_the_mean_number_of_samples_is_the_fraction(size, fraction, least):
    counts = [num_chosen(size, fraction, least, iteration) for iteration in range(2000)]
    assert sum(counts) / 2000 == pytest.approx(size * fraction, abs=2e-3 * size)
    assert all(c == 0 or min(least, size) <= c <= size for c in counts)
    assert max(counts) - min(c for c in counts if c) <= 1


@pytest.mark.parametrize('size, fraction, least', [
    (2, Fraction(1, 4), 1), (10, Fraction(1, 4), 1), (4, Fraction(1, 5), 2), (3, Fraction(1, 10), 5),
    (49, Fraction(1, 49), 1), (7, Fraction(3, 7), 3), (8, Fraction(1, 4), 2), (8, Fraction(3, 8), 4),
    (5, Fraction(1), 2)])
def test_what_has_been_chosen_is_less_than_one_pass_behind_the_fraction_in_every_iteration(size, fraction, least):
    smallest = min(least, size) if size * fraction < least else 1  # of the passes, which differ by so much
    total = 0
    for iteration in range(100):
        assert num_chosen_before(size, float(fraction), least, iteration) == total
        assert 0 <= iteration * size * fraction - total < smallest
        count = num_chosen(size, float(fraction), least, iteration)
        assert count % smallest == 0
        total += count


def test_the_draw_depends_on_the_iteration_and_on_every_number_after_it():
    tap, asked = TapConfig('backbone', 0.1, fraction=0.25), [(0, 0), (1, 0), (0, 1), (1, 1)]
    torch.manual_seed(0)
    drawn = [choose_samples(40, tap, 1, iteration, *numbers) for iteration in range(3) for numbers in asked]
    assert all(len(chosen.numbers) == 10 and chosen.size == 40 for chosen in drawn)
    assert len({tuple(chosen.numbers) for chosen in drawn}) == len(drawn)
    assert choose_samples(40, TapConfig('backbone', 0.1), 1, 0) is None
    assert choose_samples(1, tap, 1, 0).numbers == [] and choose_samples(1, tap, 1, 3) is None


@pytest.mark.parametrize('size, fraction, least, weight', [
    (8, 1.0, 8, 1), (8, 0.5, 1, 1), (8, 0.5, 4, 1), (8, 0.5, 6, 1.5), (8, 0.25, 9, 4), (1, 0.5, 2, 2)])
def test_terms_weigh_more_where_a_tap_sits_steps_out(size, fraction, least, weight):
    assert participation_weight(size, TapConfig('backbone', 0.1, fraction=fraction), least) == weight


@pytest.mark.parametrize('size, fraction, least', [(2, 0.125, 1), (2, 0.25, 2), (4, 0.2, 2), (8, 0.5, 1), (3, 0.1, 1)])
def test_the_weights_of_the_steps_have_mean_one(size, fraction, least):
    """An adversarial term weighs the inverse of the share of steps it is part of."""
    weight = participation_weight(size, TapConfig('backbone', 0.1, fraction=fraction), least)
    steps = 10 * Fraction(str(fraction)).denominator
    active = sum(num_chosen(size, fraction, least, i) > 0 for i in range(steps))
    assert weight * active / steps == pytest.approx(1, abs=1e-9)


def test_all_samples_weigh_one():
    assert participation_weight(2, TapConfig('backbone', 0.1), 2) == 1.0
