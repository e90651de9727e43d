"""What a forward changes in a model beside its outputs: counters, histories, buffers of losses."""
from __future__ import annotations

import copy
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ContextManager, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Place = Tuple[str, str, bool]  # module, name, whether a buffer
_NUMBERS = (bool, int, float, str, type(None))


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, deque)):
        return all(isinstance(item, _NUMBERS) for item in value)
    return isinstance(value, _NUMBERS)


class Saved(NamedTuple):
    """A copy of one piece of state.

    Attributes:
        value: The copy.
        original: A buffer itself, None for an attribute.
        version: Of the buffer.
    """
    value: Any
    original: Optional[Tensor] = None
    version: int = 0


State = Dict[Place, Saved]


def _all_places(model: nn.Module) -> Iterator[Place]:
    for path, module in model.named_modules():
        if module is not model and not isinstance(module, _BatchNorm):
            yield from ((path, name, False) for name, value in vars(module).items() if _is_plain(value))
            yield from ((path, name, True) for name, buffer in module._buffers.items() if buffer is not None)


def _owner(model: nn.Module, place: Place) -> Dict[str, Any]:
    module = model.get_submodule(place[0])
    return module._buffers if place[2] else vars(module)


def read_state(model: nn.Module, places: Optional[Iterable[Place]] = None, known: Optional[State] = None) -> State:
    """Copy plain attributes and buffers; batch norms, which know about passes, keep their own.

    Args:
        model: The model.
        places: Where to look; None: everywhere.
        known: Copies made before, of which those of buffers that are still the same serve again.
    """
    state: State = {}
    for place in _all_places(model) if places is None else places:
        value, saved = _owner(model, place)[place[1]], (known or {}).get(place)
        if not isinstance(value, Tensor):
            saved = Saved(copy.copy(value))
        elif saved is None or saved.original is not value or saved.version != value._version:
            saved = Saved(value.clone(), value, value._version)
        state[place] = saved
    return state


def changed_places(model: nn.Module, before: State) -> List[Place]:
    """List where a model differs from the state it had.

    Example:
        >>> net = nn.Sequential(nn.Flatten())
        >>> net[0].calls = 1
        >>> before = read_state(net)
        >>> net[0].calls = 2
        >>> changed_places(net, before)
        [('0', 'calls', False)]
    """
    places = []
    for place, saved in before.items():
        owner, name = _owner(model, place), place[1]
        if place[2]:
            now = owner.get(name)
            changed = now is not saved.original or now is not None and now._version != saved.version
        else:
            changed = name in owner and owner[name] != saved.value
        if changed:
            places.append(place)
    return places


@contextmanager
def forward_state(model: nn.Module, state: State) -> Iterator[None]:
    """Let what runs inside find copies of ``state``, and change only those."""
    kept: List[Tuple[Dict[str, Any], str, Any]] = []
    for place, (value, *_) in state.items():
        owner, name = _owner(model, place), place[1]
        kept.append((owner, name, owner.get(name)))
        owner[name] = value.clone() if isinstance(value, Tensor) else copy.copy(value)
    try:
        yield
    finally:
        for owner, name, value in kept:
            owner[name] = value


@dataclass
class RegionState:
    """What checkpointed regions find in a model in a forward, so that they find the same when they are recomputed.

    Attributes:
        model: The model.
        places: Where a forward changes the model, None where that is not known: it is everywhere then.
        protects: Otherwise recomputing a clean pass changes state once more, as it does in the stock model.
        latest: What has been read last.
    """
    model: nn.Module
    places: Optional[Sequence[Place]]
    protects: bool
    latest: State = field(default_factory=dict)

    def read(self) -> State:
        """Copy what a region that begins now finds; regions share the copy of what does not change between them."""
        self.latest = read_state(self.model, self.places, self.latest)
        return self.latest

    def restored(self, state: State) -> ContextManager[None]:
        """Return a context in which the model is as it was, and after which it is as it is now."""
        return forward_state(self.model, state)
