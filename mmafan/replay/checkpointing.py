"""Activation checkpointing of stock modules inside A-FAN's passes."""
from __future__ import annotations

import threading
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Callable, ContextManager, Iterator, Optional, Sequence

from torch import nn
from torch.utils import checkpoint as torch_checkpoint

from .forward_state import VALUES, Place, State, forward_state, read_state
from .state import PassKind, current_pass, replaced, running_pass

WAYS = ('CheckpointFunction', '_checkpoint_without_reentrant_generator')  # the first is reentrant
_STOCK = getattr(torch_checkpoint, WAYS[1])
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


@dataclass
class Regions:
    """In the place of both ways of ``torch.utils.checkpoint``, it makes them fit for A-FAN's passes.

    - Checkpointing that is reentrant, as that of ``with_cp`` in the codebases and of mmengine's
      ``activation_checkpointing``, becomes non-reentrant: through the other kind no gradient at a tap can be taken.
    - What is recomputed runs as the pass that it belongs to, so that its norms use the same statistics, also where the
      backward of several passes runs as one. While an attack's gradient is taken, what is recomputed stores nothing.
    - What is recomputed finds the state of the model (counters, spectral norms) as its forward found it, and leaves it
      alone; batch norms, which know about passes, store again when a clean pass is recomputed, as in stock models.
    - A region in which the tap lies is not checkpointed in adversarial passes: recomputed, it would hold the clean
      feature. No region is, that begins before the last perturbed feature of the pass has been given out.

    A step in which nothing is checkpointed comes to none of its methods.

    Attributes:
        model: The model.
        places: Where a forward changes the model, None where that is not known: it is everywhere then.
        protects: Otherwise recomputing a clean pass changes state once more, as it does in the stock model, and goes on
            to the end of a region, and not only to the last tensor that the backward needs.
        latest: What has been read last.
    """
    model: nn.Module
    places: Optional[Sequence[Place]]
    protects: bool
    latest: State = field(default_factory=dict)

    def apply(self, function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        """Checkpoint a region that asks for the reentrant way."""
        with torch_checkpoint.set_checkpoint_early_stop(self.protects):
            return torch_checkpoint.checkpoint(
                function, *args, use_reentrant=False, preserve_rng_state=preserve_rng_state)

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[None]:
        """Checkpoint a region in the other way."""
        if current_pass().before_tap:
            return iter((None, ))  # nothing before the function, nothing after it
        return _STOCK(self.in_its_pass(function), *args, **kwargs)

    def read(self) -> State:
        """Copy what a region that begins now finds; regions share the copy of what does not change between them."""
        places = None if self.places is None else [place for place in self.places if place[2] != VALUES]
        self.latest = read_state(self.model, places, self.latest)
        return self.latest

    def restored(self, state: State) -> ContextManager[None]:
        """Return a context in which the model is as it was, and after which it is as it is now."""
        return forward_state(self.model, state)

    def in_its_pass(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Make a function that runs as the pass in which this one was called, whenever it runs.

        Example:
            >>> with running_pass(PassKind.ADVERSARIAL, 'frozen'):
            ...     function = Regions(nn.ReLU(), None, protects=True).in_its_pass(current_pass)
            >>> function().kind
            <PassKind.ADVERSARIAL: 'adversarial'>
        """
        state, found = current_pass(), self.read()

        def recompute(*args: Any, **kwargs: Any) -> Any:
            kind = state.kind
            if current_pass().kind is PassKind.CHECK and kind is PassKind.CLEAN:
                kind = PassKind.CHECK
            protects = self.protects or kind is not PassKind.CLEAN
            with (self.restored(found) if protects else nullcontext(),
                  running_pass(kind, state.batch_norm, state.groups),
                  replaced(torch_checkpoint, dict.fromkeys(WAYS, self)),  # there may be regions inside
                  _region()):
                return function(*args, **kwargs)

        return recompute
