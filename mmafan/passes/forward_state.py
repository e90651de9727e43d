"""What a forward changes in a model beside its outputs: counters, histories, buffers of losses."""
from __future__ import annotations

import copy
from collections import deque
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Tuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Place = Tuple[str, str, bool]  # module, name, whether a buffer
_NUMBERS = (bool, int, float, str, type(None))


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, deque)):
        return all(isinstance(item, _NUMBERS) for item in value)
    return isinstance(value, _NUMBERS)


def read_state(model: nn.Module) -> Dict[Place, Any]:
    """Read plain attributes and the versions of buffers; batch norms, which know about passes, keep their own."""
    state: Dict[Place, Any] = {}
    for path, module in model.named_modules():
        if module is model or isinstance(module, _BatchNorm):
            continue
        for name, value in vars(module).items():
            if _is_plain(value):
                state[path, name, False] = copy.copy(value)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                state[path, name, True] = (id(buffer), buffer._version)
    return state


def compare_state(before: Dict[Place, Any], after: Dict[Place, Any]) -> List[Place]:
    """List what differs; what is new is a cache and no state.

    Example:
        >>> compare_state({('head', 'calls', False): 1}, {('head', 'calls', False): 2, ('head', 'cache', False): 0})
        [('head', 'calls', False)]
    """
    return [place for place, value in before.items() if place in after and after[place] != value]


@contextmanager
def protected_state(model: nn.Module, places: List[Place]) -> Iterator[None]:
    """Let what runs inside change copies."""
    kept: List[Tuple[Dict[str, Any], str, Any]] = []
    for path, name, is_buffer in places:
        module = model.get_submodule(path)
        owner = module._buffers if is_buffer else vars(module)
        value = owner.get(name)
        kept.append((owner, name, value))
        owner[name] = value.clone() if is_buffer and value is not None else copy.copy(value)
    try:
        yield
    finally:
        for owner, name, value in kept:
            owner[name] = value
