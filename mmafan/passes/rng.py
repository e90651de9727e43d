"""Snapshots of every random stream a training step may draw from."""
from __future__ import annotations

import random
from typing import Any, List, Optional, Tuple

import numpy as np
import torch


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
        self._numpy = np.random.get_state()
        self._torch = torch.get_rng_state()
        in_use = torch.cuda.is_available() and torch.cuda.is_initialized()
        self._cuda: Optional[torch.Tensor] = torch.cuda.get_rng_state() if in_use else None

    def is_current(self) -> bool:
        """Whether every generator is still, or again, where it was."""
        now = RandomState()
        same_numpy = all(np.array_equal(a, b) for a, b in zip(self._numpy, now._numpy))
        same_cuda = self._cuda is None or now._cuda is not None and torch.equal(self._cuda, now._cuda)
        return self._python == now._python and same_numpy and torch.equal(self._torch, now._torch) and same_cuda

    def restore(self) -> None:
        """Put every generator back to where it was."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda)


def derived_generator(*numbers: int) -> torch.Generator:
    """Make a CPU generator that depends on the global seed and the given numbers, without drawing from any stream.

    Args:
        numbers: For example the iteration and the rank: the same numbers give the same draws after a resume.
    """
    words: List[int] = [torch.initial_seed() % 2**63, *numbers]
    state = np.random.SeedSequence(words).generate_state(2, np.uint32)
    generator = torch.Generator()
    generator.manual_seed(int(state[0]) << 32 | int(state[1]))
    return generator
