"""Which samples of a batch take part in a step, and what their terms weigh in return."""
from __future__ import annotations

import math
from typing import Optional

import torch

from ..replay import Chosen
from ..replay.rng import derived_generator
from ..tap_config import TapConfig


def choose_samples(size: int, tap: TapConfig, least: int, iteration: int, *numbers: int) -> Optional[Chosen]:
    """Draw the samples of a batch that take part at a tap in an iteration; None: all of them.

    Args:
        size: Number of samples in the batch.
        tap: The tap.
        least: Fewest samples of a pass.
        iteration: Number of the step, among those that the tap takes part in.
        numbers: What the draw depends on beside it: the rank of the process, the number of the tap.
    """
    count = num_chosen(size, tap.fraction, least, iteration)
    if count == size:
        return None
    permutation = torch.randperm(size, generator=derived_generator(iteration, *numbers))
    return Chosen(permutation[:count].sort().values, size)


def num_chosen(size: int, fraction: float, least: int, iteration: int) -> int:
    """Return how many of ``size`` samples take part in an iteration, ``size * fraction`` on the mean.

    Where that is no whole number, iterations differ in a fixed rhythm, which is the same in every process; fewer than
    ``least`` samples never take part, so that small batches sit some iterations out.

    Example:
        >>> [num_chosen(2, 0.25, 1, iteration) for iteration in range(4)]
        [0, 1, 0, 1]
        >>> [num_chosen(10, 0.25, 1, iteration) for iteration in range(4)]
        [2, 3, 2, 3]
    """
    return (num_chosen_before(size, fraction, least, iteration + 1)
            - num_chosen_before(size, fraction, least, iteration))


def num_chosen_before(size: int, fraction: float, least: int, iteration: int) -> int:
    """Return how many samples have taken part in all iterations before this one."""
    least = min(least, size)
    wanted = size * fraction
    unit = least if wanted < least else 1
    return unit * math.floor(iteration * wanted / unit + 1e-9)


def participation_weight(size: int, tap: TapConfig, least: int) -> float:
    """Return the inverse of the share of iterations a tap takes part in: its terms count so much more in those."""
    least = min(least, size)
    return max(1.0, least / (size * tap.fraction))
