"""Snapshots of every random stream a training step may draw from."""
from __future__ import annotations

import ctypes
import random
from typing import Any, List, Optional, Tuple, Union

import numpy as np
import torch

_MT19937_BYTES = 625 * 4  # a key of 624 words, and the position in it


# State of NumPy's global generator, raw and as NumPy gives it. The raw one is None where not every draw shows in it:
# the generator is no Mersenne twister, or keeps one of a pair of normal numbers.
_NumpyState = Tuple[Optional[bytes], Any]
_latest: _NumpyState = (None, None)


def _raw_state() -> Optional[bytes]:
    """Copy key and position: a hundredth of the time of ``numpy.random.get_state``, which a step asks for often."""
    generator = np.random.mtrand._rand._bit_generator
    if type(generator) is not np.random.MT19937:
        return None
    return ctypes.string_at(generator.ctypes.state_address, _MT19937_BYTES)


def _numpy_state() -> _NumpyState:
    global _latest
    raw = _raw_state()
    if raw is None or raw != _latest[0]:
        full: Any = np.random.get_state()
        _latest = (None if raw is None or full[3] else raw), full
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

    def restore(self) -> None:
        """Put every generator back to where it was."""
        random.setstate(self._python)
        raw, full = self._numpy
        if raw is None or _raw_state() != raw:
            np.random.set_state(full)
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
    high, low = map(int, np.random.SeedSequence(words).generate_state(2, np.uint32))
    return torch.Generator(device).manual_seed(high << 32 | low)


def generator_beside(generator: torch.Generator, device: torch.device) -> Optional[torch.Generator]:
    """Return a generator of the same seed that draws on a device; on the CPU it is the generator itself."""
    if device.type in ('cpu', 'meta'):  # nothing is drawn on the latter
        return generator if device.type == 'cpu' else None
    return torch.Generator(device).manual_seed(generator.initial_seed())
