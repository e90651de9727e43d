"""Streams are put back to where they were; a step's own draws are beside them, and the same after a resume."""
from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch

from mmafan.replay import rng
from mmafan.replay.rng import RandomState, derived_generator, generator_beside

DRAWS = dict(
    python=random.random, torch=lambda: float(torch.rand(())), numpy=np.random.rand, pair=np.random.randn,
    many=lambda: np.random.rand(700).tolist(), word=lambda: int(np.random.randint(2**16)))


@pytest.mark.parametrize('ahead', [0, 1, 2, 623, 624])
@pytest.mark.parametrize('name', DRAWS)
def test_after_a_restore_the_same_is_drawn(name, ahead):
    """Of a pair of normal numbers one may be kept from before; a Mersenne twister makes 624 words at a time."""
    np.random.seed(5)
    for _ in range(ahead):
        DRAWS[name]()
    state = RandomState()
    first = [DRAWS[name]() for _ in range(3)]
    for _ in range(2):
        state.restore()
        assert [DRAWS[name]() for _ in range(3)] == first
    later = RandomState()
    second = [DRAWS[name]() for _ in range(3)]
    state.restore()
    assert [DRAWS[name]() for _ in range(6)] == first + second
    later.restore()
    assert [DRAWS[name]() for _ in range(3)] == second != first


def test_the_state_of_numpy_is_read_raw_and_in_full_only_after_a_draw(monkeypatch):
    np.random.seed(3)
    np.random.rand()
    _, key, position, *_ = np.random.get_state()
    assert rng._raw_state() == key.astype(np.uint32).tobytes() + np.int32(position).tobytes()
    read, get_state = [], np.random.get_state
    monkeypatch.setattr(np.random, 'get_state', lambda: read.append(1) or get_state())
    for number in range(3):
        states = [RandomState() for _ in range(3)]
        assert len(read) == number + 1
        np.random.rand()
    states[0].restore()
    monkeypatch.setattr(np.random, 'set_state', None)  # it has not moved since
    states[1].restore()


@pytest.mark.filterwarnings('ignore:get_state and legacy:RuntimeWarning')
def test_a_generator_of_another_kind_is_put_back_too():
    before = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(1))
        state = RandomState()
        first = np.random.rand(3).tolist()
        state.restore()
        assert np.random.rand(3).tolist() == first != np.random.rand(3).tolist()
    finally:
        np.random.set_bit_generator(before)


@pytest.mark.parametrize('available, initialized', itertools.product([True, False], repeat=2))
def test_the_stream_of_a_gpu_is_asked_for_only_where_it_is_in_use(available, initialized, monkeypatch):
    """To ask a GPU that nothing uses would start it."""
    stream = dict(now=3)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: available)
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: initialized)
    monkeypatch.setattr(torch.cuda, 'get_rng_state', lambda: stream['now'])
    monkeypatch.setattr(torch.cuda, 'set_rng_state', lambda state: stream.update(now=state))
    state = RandomState()
    stream['now'] = 7
    state.restore()
    assert stream['now'] == (3 if available and initialized else 7)


@pytest.mark.parametrize('seed', [0, 7, 2**31 + 5, 2**63 - 1, 2**63 + 5])
@pytest.mark.parametrize('numbers', [(0, ), (3, 1), (10**6, 2, 0, 1)])
def test_a_generator_is_the_one_that_numpy_derives_from_the_seed_and_the_numbers(seed, numbers):
    torch.manual_seed(seed)
    high, low = np.random.SeedSequence([seed - 2**63 if seed >= 2**63 else seed, *numbers]).generate_state(2)
    expected = torch.Generator().manual_seed(int(high) * 2**32 + int(low))
    found = derived_generator(*numbers)
    assert found.initial_seed() == expected.initial_seed()  # of which the CPU takes the lower half
    assert torch.equal(torch.rand(5, generator=found), torch.rand(5, generator=expected))


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
