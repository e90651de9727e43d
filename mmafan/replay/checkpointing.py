"""Activation checkpointing of stock modules inside A-FAN's passes."""
from __future__ import annotations

import threading
from contextlib import contextmanager, nullcontext
from typing import Any, Callable, Iterator, List

from torch.utils import checkpoint as torch_checkpoint

from .forward_state import RegionState
from .state import PassKind, Patches, current_pass, running_pass

REENTRANT = 'CheckpointFunction'
NON_REENTRANT = '_checkpoint_without_reentrant_generator'
_REPLAYS: List[Callable[[], bool]] = []
_REGIONS = threading.local()


def inside_region() -> bool:
    """Whether a checkpointed region is running in this thread."""
    return getattr(_REGIONS, 'depth', 0) > 0


@contextmanager
def _region() -> Iterator[None]:
    _REGIONS.depth = getattr(_REGIONS, 'depth', 0) + 1
    try:
        yield
    finally:
        _REGIONS.depth -= 1


@contextmanager
def replaying(is_before_tap: Callable[[], bool]) -> Iterator[None]:
    """Mark an adversarial pass; ``is_before_tap`` tells whether perturbed features are still to be given out."""
    _REPLAYS.append(is_before_tap)
    try:
        yield
    finally:
        _REPLAYS.pop()


@contextmanager
def checkpointing_of_passes(regions: RegionState) -> Iterator[None]:
    """Make ``torch.utils.checkpoint`` fit for A-FAN's passes; everything is put back at the end.

    - Checkpointing that is reentrant, as that of ``with_cp`` in the codebases and of mmengine's
      ``activation_checkpointing``, becomes non-reentrant: through the other kind no gradient at a tap can be taken.
    - What is recomputed runs as the pass that it belongs to, so that its norms use the same statistics, also where the
      backward of several passes runs as one. While an attack's gradient is taken, what is recomputed stores nothing.
    - What is recomputed finds the state of the model (counters, spectral norms) as its forward found it, and leaves it
      alone; batch norms, which know about passes, store again when a clean pass is recomputed, as in stock models.
    - A region in which the tap lies is not checkpointed in adversarial passes: recomputed, it would hold the clean
      feature. No region is, that begins before the last perturbed feature of the pass has been given out.

    Args:
        regions: Reads and restores that state; where it does not protect it, recomputing a clean pass changes it once
            more, as in the stock model.
    """
    patches = Patches()
    patches.set(torch_checkpoint, REENTRANT, _NonReentrant(early_stop=regions.protects))
    stock = getattr(torch_checkpoint, NON_REENTRANT)

    def around(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[None]:
        if any(is_before_tap() for is_before_tap in _REPLAYS):
            return iter((None, ))  # nothing before the function, nothing after it
        return stock(in_its_pass(function, regions), *args, **kwargs)

    patches.set(torch_checkpoint, NON_REENTRANT, around)
    try:
        yield
    finally:
        patches.undo()


class _NonReentrant:
    """In place of ``torch.utils.checkpoint.CheckpointFunction``, which recomputes a region to its end.

    Args:
        early_stop: Recompute no further than to the last tensor that the backward needs.
    """

    def __init__(self, early_stop: bool) -> None:
        self._early_stop = early_stop

    def apply(self, function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        with torch_checkpoint.set_checkpoint_early_stop(self._early_stop):
            return torch_checkpoint.checkpoint(
                function, *args, use_reentrant=False, preserve_rng_state=preserve_rng_state)


def in_its_pass(function: Callable[..., Any], regions: RegionState) -> Callable[..., Any]:
    """Make a function that runs as the pass in which this one was called, whenever it runs.

    Args:
        function: The function.
        regions: As for :func:`checkpointing_of_passes`.

    Example:
        >>> from torch import nn
        >>> with running_pass(PassKind.ADVERSARIAL, 'frozen'):
        ...     function = in_its_pass(current_pass, RegionState(nn.ReLU(), None, protects=True))
        >>> function().kind
        <PassKind.ADVERSARIAL: 'adversarial'>
    """
    state, found = current_pass(), regions.read()

    def recompute(*args: Any, **kwargs: Any) -> Any:
        kind = state.kind
        if current_pass().kind is PassKind.CHECK and kind is PassKind.CLEAN:
            kind = PassKind.CHECK
        protects = regions.protects or kind is not PassKind.CLEAN
        inner = checkpointing_of_passes(regions)  # there may be regions inside
        with (regions.restored(found) if protects else nullcontext(),
              running_pass(kind, state.batch_norm, state.groups), inner, _region()):
            return function(*args, **kwargs)

    return recompute
