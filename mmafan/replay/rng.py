"""Snapshots of every random stream a training step may draw from."""
from __future__ import annotations

import ctypes
import random
from typing import Any, List, NamedTuple, Optional, Tuple, Union

import numpy as np
import torch

_MT19937_BYTES = 625 * 4  # a key of 624 words, and the position in it


class _NumpyState(NamedTuple):
    """State of NumPy's global generator; ``raw`` is None where it is no Mersenne twister."""
    raw: Optional[bytes]
    full: Tuple[Any, ...]

    @property
    def shows_every_draw(self) -> bool:
        """Whether no draw leaves the key and the position alone: none is kept of a pair of normal numbers."""
        return self.raw is not None and not self.full[3]


_latest: Optional[_NumpyState] = None


def _raw_state() -> Optional[bytes]:
    """Copy key and position: a hundredth of the time of ``numpy.random.get_state``, which a step asks for often."""
    generator = np.random.mtrand._rand._bit_generator
    if type(generator) is not np.random.MT19937:
        return None
    return ctypes.string_at(generator.ctypes.state_address, _MT19937_BYTES)


def _numpy_state() -> _NumpyState:
    global _latest
    raw = _raw_state()
    if _latest is None or not _latest.shows_every_draw or raw != _latest.raw:
        full: Any = np.random.get_state()
        _latest = _NumpyState(raw, full)
    return _latest


class RandomState:
    """State of Python's, NumPy's and torch's global generators (CPU, and the current CUDA device where in use).

    Example:
        >>> state = RandomState()
        >>> first = torch.rand(1)
        >>> state.restore()
        >>> bool(torch.rand(1) == first)
        True
    """

    def __init__(self) -> None:
        self._python: Tuple[Any, ...] = random.getstate()
        self._numpy = _numpy_state()
        self._torch = torch.get_rng_state()
        in_use = torch.cuda.is_available() and torch.cuda.is_initialized()
        self._cuda: Optional[torch.Tensor] = torch.cuda.get_rng_state() if in_use else None

    def is_current(self) -> bool:
        """Whether every generator is still, or again, where it was."""
        now = RandomState()
        same_numpy = all(np.array_equal(a, b) for a, b in zip(self._numpy.full, now._numpy.full))
        same_cuda = self._cuda is None or now._cuda is not None and torch.equal(self._cuda, now._cuda)
        return self._python == now._python and same_numpy and torch.equal(self._torch, now._torch) and same_cuda

    def restore(self) -> None:
        """Put every generator back to where it was."""
        random.setstate(self._python)
        if not self._numpy.shows_every_draw or _raw_state() != self._numpy.raw:
            np.random.set_state(self._numpy.full)
        torch.set_rng_state(self._torch)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda)


def derived_generator(*numbers: int, device: Union[str, torch.device] = 'cpu') -> torch.Generator:
    """Make a generator that depends on the global seed and the given numbers, without drawing from any stream.

    Args:
        numbers: For example the iteration and the rank: the same numbers give the same draws after a resume.
        device: Where it draws.
    """
    words: List[int] = [torch.initial_seed() % 2**63, *numbers]
    state = np.random.SeedSequence(words).generate_state(2, np.uint32)
    generator = torch.Generator(device)
    generator.manual_seed(int(state[0]) << 32 | int(state[1]))
    return generator


def generator_beside(generator: torch.Generator, device: torch.device) -> Optional[torch.Generator]:
    """Return a generator of the same seed that draws on a device; on the CPU it is the generator itself."""
    if device.type in ('cpu', 'meta'):  # nothing is drawn on the latter
        return generator if device.type == 'cpu' else None
    return torch.Generator(device).manual_seed(generator.initial_seed())
