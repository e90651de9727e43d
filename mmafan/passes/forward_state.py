"""What a forward changes in a model beside its outputs: counters, histories, buffers of losses."""
from __future__ import annotations

import copy
from collections import deque
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Place = Tuple[str, str, bool]  # module, name, whether a buffer
_NUMBERS = (bool, int, float, str, type(None))


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, deque)):
        return all(isinstance(item, _NUMBERS) for item in value)
    return isinstance(value, _NUMBERS)


class Saved(NamedTuple):
    """A copy of one piece of state; a buffer with its identity and version."""
    value: Any
    version: Any = None

    def differs(self, other: 'Saved') -> bool:
        """Whether the state has changed between two copies."""
        return self.value != other.value if self.version is None else self.version != other.version


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
                state[path, name, True] = Saved(buffer.clone(), (id(buffer), buffer._version))
    return state


def read_places(model: nn.Module, places: List[Place]) -> State:
    """Copy the state at some places."""
    state: State = {}
    for path, name, is_buffer in places:
        module = model.get_submodule(path)
        value = module._buffers[name] if is_buffer else vars(module)[name]
        state[path, name, is_buffer] = Saved(_copy(value))
    return state


def changed_places(before: State, after: State) -> List[Place]:
    """List what differs; what is new is a cache and no state.

    Example:
        >>> before = {('head', 'calls', False): Saved(1)}
        >>> changed_places(before, {('head', 'calls', False): Saved(2), ('head', 'cache', False): Saved(0)})
        [('head', 'calls', False)]
    """
    return [place for place, saved in before.items() if place in after and saved.differs(after[place])]


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
