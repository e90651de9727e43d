"""Activation checkpointing of stock modules inside A-FAN's passes."""
from __future__ import annotations

import functools
import threading
from contextlib import contextmanager, nullcontext
from typing import Any, Callable, ContextManager, Iterator, List, Optional

from torch.utils import checkpoint as torch_checkpoint

from .forward_state import RegionState, State
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


def _given(regions: RegionState) -> RegionState:
    return regions


@contextmanager
def replaying(is_before_tap: Callable[[], bool]) -> Iterator[None]:
    """Mark an adversarial pass; ``is_before_tap`` tells whether perturbed features are still to be given out."""
    _REPLAYS.append(is_before_tap)
    try:
        yield
    finally:
        _REPLAYS.pop()


@contextmanager
def checkpointing_of_passes(regions: Optional[Callable[[], RegionState]] = None,
                            protects: bool = True) -> Iterator[None]:
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
        regions: Gives what reads and restores that state, the same at every call; None leaves it to the recomputation.
        protects: Whether recomputing a clean pass leaves the state alone, where the stock model changes it once more.
    """
    patches = Patches()
    patches.set(torch_checkpoint, REENTRANT, _NonReentrant(early_stop=protects))
    stock = getattr(torch_checkpoint, NON_REENTRANT)

    def around(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[None]:
        if any(is_before_tap() for is_before_tap in _REPLAYS):
            return iter((None, ))  # nothing before the function, nothing after it
        return stock(in_its_pass(function, None if regions is None else regions()), *args, **kwargs)

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


def in_its_pass(function: Callable[..., Any], regions: Optional[RegionState] = None) -> Callable[..., Any]:
    """Make a function that runs as the pass in which this one was called, whenever it runs.

    Args:
        function: The function.
        regions: What :func:`checkpointing_of_passes` is given gives it.

    Example:
        >>> with running_pass(PassKind.ADVERSARIAL, 'frozen'):
        ...     function = in_its_pass(current_pass)
        >>> function().kind
        <PassKind.ADVERSARIAL: 'adversarial'>
    """
    state = current_pass()
    found: State = {} if regions is None else regions.read()

    def recompute(*args: Any, **kwargs: Any) -> Any:
        kind = state.kind
        if current_pass().kind is PassKind.CHECK and kind is PassKind.CLEAN:
            kind = PassKind.CHECK
        protection: ContextManager[None] = nullcontext()
        if regions is not None and (regions.protects or kind is not PassKind.CLEAN):
            protection = regions.restored(found)
        # There may be regions inside.
        again = None if regions is None else functools.partial(_given, regions)
        inner = checkpointing_of_passes(again, regions is None or regions.protects)
        with protection, running_pass(kind, state.batch_norm, state.groups), inner, _region():
            return function(*args, **kwargs)

    return recompute
