"""What a forward changes in a model beside its outputs: counters, histories, buffers of losses."""
from __future__ import annotations

import copy
from collections import deque
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

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


def read_state(model: nn.Module) -> State:
    """Copy plain attributes and buffers; batch norms, which know about passes, keep their own."""
    state: State = {}
    for path, module in model.named_modules():
        if module is model or isinstance(module, _BatchNorm):
            continue
        for name, value in vars(module).items():
            if _is_plain(value):
                state[path, name, False] = Saved(copy.copy(value))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                state[path, name, True] = Saved(buffer.clone(), buffer, buffer._version)
    return state


def read_places(model: nn.Module, places: List[Place]) -> State:
    """Copy the state at some places."""
    state: State = {}
    for path, name, is_buffer in places:
        module = model.get_submodule(path)
        value = module._buffers[name] if is_buffer else vars(module)[name]
        state[path, name, is_buffer] = Saved(_copy(value))
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
