"""Generators of a step's own draws: the same after a resume, different from each other, beside every stream."""
from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mmafan.replay.rng import derived_generator, generator_beside


@pytest.mark.parametrize('seed', [0, 7, 2**31 + 5, 2**63 - 1, 2**63 + 5])
@pytest.mark.parametrize('numbers', [(0, ), (3, 1), (10**6, 2, 0, 1)])
def test_a_generator_is_the_one_that_numpy_derives_from_the_seed_and_the_numbers(seed, numbers):
    torch.manual_seed(seed)
    high, low = np.random.SeedSequence([seed - 2**63 if seed >= 2**63 else seed, *numbers]).generate_state(2)
    expected = torch.Generator().manual_seed(int(high) * 2**32 + int(low))
    assert torch.equal(torch.rand(5, generator=derived_generator(*numbers)), torch.rand(5, generator=expected))


def test_generators_differ_by_every_number_and_draw_from_no_stream():
    before = torch.get_rng_state()
    seeds = {derived_generator(*numbers).initial_seed() for numbers in itertools.product(range(4), repeat=3)}
    assert len(seeds) == 4**3
    derived_generator(1).initial_seed(), torch.rand(3, generator=derived_generator(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_beside_a_generator_the_cpu_draws_from_itself():
    generator = derived_generator(5)
    assert generator_beside(generator, torch.device('cpu')) is generator
    assert generator_beside(generator, torch.device('meta')) is None
