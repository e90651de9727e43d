"""What a forward changes in a model beside its outputs: counters, histories, buffers of losses."""
from __future__ import annotations

import copy
from collections import deque
from contextlib import contextmanager
from typing import Any, ContextManager, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

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


def read_state(model: nn.Module, known: Optional[State] = None) -> State:
    """Copy plain attributes and buffers; batch norms, which know about passes, keep their own.

    Args:
        model: The model.
        known: Copies made before, of which those of buffers that are still the same serve again.
    """
    state: State = {}
    for path, module in model.named_modules():
        if module is model or isinstance(module, _BatchNorm):
            continue
        for name, value in vars(module).items():
            if _is_plain(value):
                state[path, name, False] = Saved(copy.copy(value))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                state[path, name, True] = _save(buffer, (known or {}).get((path, name, True)))
    return state


def read_places(model: nn.Module, places: Sequence[Place], known: Optional[State] = None) -> State:
    """Copy the state at some places; ``known`` as for :func:`read_state`."""
    state: State = {}
    for path, name, is_buffer in places:
        module = model.get_submodule(path)
        value = module._buffers[name] if is_buffer else vars(module)[name]
        state[path, name, is_buffer] = _save(value, (known or {}).get((path, name, is_buffer)))
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
    for (path, name, is_buffer), saved in before.items():
        module = model.get_submodule(path)
        if is_buffer:
            now = module._buffers.get(name)
            changed = now is not saved.original or now is not None and now._version != saved.version
        else:
            changed = name in vars(module) and vars(module)[name] != saved.value
        if changed:
            places.append((path, name, is_buffer))
    return places


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else copy.copy(value)


def _save(value: Any, known: Optional[Saved]) -> Saved:
    if not isinstance(value, Tensor):
        return Saved(copy.copy(value))
    if known is not None and known.original is value and known.version == value._version:
        return known
    return Saved(value.clone(), value, value._version)


@contextmanager
def forward_state(model: nn.Module, state: State) -> Iterator[None]:
    """Let what runs inside find copies of ``state``, and change only those."""
    kept: List[Tuple[Dict[str, Any], str, Any]] = []
    for (path, name, is_buffer), saved in state.items():
        module = model.get_submodule(path)
        owner = module._buffers if is_buffer else vars(module)
        kept.append((owner, name, owner.get(name)))
        owner[name] = _copy(saved.value)
    try:
        yield
    finally:
        for owner, name, value in kept:
            owner[name] = value


class RegionState:
    """What checkpointed regions find in a model in a forward, so that they find the same when they are recomputed.

    Args:
        model: The model.
        places: Where a forward changes the model, None where that is not known: it is everywhere then.
        protects: Otherwise recomputing a clean pass changes state once more, as it does in the stock model.
    """

    def __init__(self, model: nn.Module, places: Optional[Sequence[Place]], protects: bool) -> None:
        self._model, self._places, self.protects = model, places, protects
        self._latest: State = {}

    def read(self) -> State:
        """Copy what a region that begins now finds; regions share the copy of what does not change between them."""
        self._latest = (read_state(self._model, self._latest) if self._places is None else
                        read_places(self._model, self._places, self._latest))
        return self._latest

    def restored(self, state: State) -> ContextManager[None]:
        """Return a context in which the model is as it was, and after which it is as it is now."""
        chosen = state if self._places is None else {place: state[place] for place in self._places}
        return forward_state(self._model, chosen)
