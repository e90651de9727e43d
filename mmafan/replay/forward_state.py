"""What a forward changes in a model beside its outputs: counters, histories, buffers, momentum networks."""
from __future__ import annotations

import copy
import pickle
import random
from collections import deque
from contextlib import contextmanager
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from mmengine.model import BaseAveragedModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Place = Tuple[str, str, str]  # module, name, kind
ATTRIBUTE, BUFFER, VALUES = 'attribute', 'buffer', 'values'  # the last: of a tensor that stays the same object
_NUMBERS = (bool, int, float, str, type(None))


_STREAMS = (torch.Generator, np.random.RandomState, np.random.Generator, random.Random)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, deque)):
        return all(isinstance(item, _NUMBERS) for item in value)
    if isinstance(value, (*_NUMBERS, *_STREAMS)):
        return True
    own: Any = {} if isinstance(value, type) else getattr(value, '__dict__', {})  # of a counter, say
    return bool(own) and all(isinstance(item, _NUMBERS) for item in own.values())


def _differs(value: Any, other: Any) -> bool:
    if isinstance(value, torch.Generator):
        return not value.get_state().equal(other.get_state())
    if isinstance(value, _STREAMS):
        return pickle.dumps(value) != pickle.dumps(other)
    own = getattr(value, '__dict__', None)
    return bool(own != getattr(other, '__dict__', None) if own else value != other)


class Saved(NamedTuple):
    """A copy of one piece of state.

    Attributes:
        value: The copy.
        original: The buffer itself, None where values are compared.
        version: Of a tensor.
    """
    value: Any
    original: Optional[Tensor] = None
    version: int = 0


State = Dict[Place, Saved]


def _all_places(model: nn.Module, momentum: bool) -> Iterator[Place]:
    for path, module in model.named_modules():
        buffers = [name for name, buffer in module._buffers.items() if buffer is not None]
        own = {name: p for name, p in module._parameters.items() if p is not None and momentum}
        yield from ((path, name, VALUES) for name in own)
        if not isinstance(module, _BatchNorm):
            yield from ((path, name, ATTRIBUTE) for name, value in vars(module).items() if _is_plain(value))
            yield from ((path, name, BUFFER) for name in buffers)
        elif momentum and not _trains(model, path, module):
            yield from ((path, name, VALUES) for name in buffers)


def _trains(model: nn.Module, path: str, norm: nn.Module) -> bool:
    """Whether a norm has a gradient; one without parameters is like what it is a part of."""
    parameters = list(norm.parameters())
    while not parameters and path:
        path = path.rpartition('.')[0]
        parameters = list(model.get_submodule(path).parameters())
    return any(parameter.requires_grad for parameter in parameters)


def _owner(model: nn.Module, place: Place) -> Dict[str, Any]:
    own = vars(model.get_submodule(place[0]))
    return own if place[2] == ATTRIBUTE else own['_parameters' if place[1] in own['_parameters'] else '_buffers']


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        made = torch.Generator(value.device)
        made.set_state(value.get_state())
        return made
    if isinstance(value, _STREAMS):
        return copy.deepcopy(value)
    return value.detach().clone() if isinstance(value, Tensor) else copy.copy(value)


def read_state(model: nn.Module, places: Optional[Iterable[Place]] = None, known: Optional[State] = None,
               momentum: bool = False) -> State:
    """Copy plain attributes and buffers; batch norms, which know about passes, keep their own.

    Args:
        model: The model.
        places: Where to look; None: everywhere.
        known: Copies made before, of which those of buffers that are still the same serve again.
        momentum: Whether everywhere includes what momentum networks are made of: parameters, and the buffers of batch
            norms that have no gradient.
    """
    state: State = {}
    for place in _all_places(model, momentum) if places is None else places:
        value, saved = _owner(model, place)[place[1]], (known or {}).get(place)
        if place[2] != BUFFER:
            saved = Saved(_copy(value), version=getattr(value, '_version', 0))
        elif saved is None or saved.original is not value or saved.version != value._version:
            saved = Saved(_copy(value), value, value._version)
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
        [('0', 'calls', 'attribute')]
    """
    averaged = {path: module.steps for path, module in model.named_modules() if isinstance(module, BaseAveragedModel)}
    follow = tuple(f'{path}.' for path, steps in averaged.items() if (path, 'steps', BUFFER) in before
                   and not steps.equal(before[path, 'steps', BUFFER].value))  # their first step may change no value
    places = []
    for place, saved in before.items():
        owner, name = _owner(model, place), place[1]
        now: Any = owner.get(name)
        if place[2] == VALUES:  # written to past the counter of versions; another shape is that of a shard
            changed = place[0].startswith(follow) or now.shape == saved.value.shape and not now.equal(saved.value)
        elif place[2] == BUFFER:
            changed = now is not saved.original or now is not None and (
                now._version != saved.version or not now.equal(saved.value))  # written to past the counter
        else:
            changed = name in owner and _differs(now, saved.value)
        if changed:
            places.append(place)
    return places


@contextmanager
def forward_state(model: nn.Module, state: State) -> Iterator[None]:
    """Let what runs inside find copies of ``state``, and change only those.

    Parameters stay the same objects, as whoever updates them may hold them. Their versions are repeated, too: the graph
    of every pass finds the one that it has saved.
    """
    kept: List[Tuple[Dict[str, Any], str, Any]] = []
    values: List[Tuple[Tensor, Tensor, int]] = []
    for place, (value, _, version) in state.items():
        owner, name = _owner(model, place), place[1]
        if place[2] == VALUES:
            values.append((owner[name], owner[name].data, owner[name]._version))
            _exchange(owner[name], _copy(value), version)
        else:
            kept.append((owner, name, owner.get(name)))
            owner[name] = _copy(value)
    try:
        yield
    finally:
        for owner, name, value in kept:
            owner[name] = value
        for tensor, data, version in values:
            _exchange(tensor, data, version)


def _exchange(tensor: Tensor, data: Tensor, version: int) -> None:
    tensor.data = data
    set_version: Any = torch._C._autograd._unsafe_set_version_counter
    try:
        set_version((tensor, ), (version, ))
    except TypeError:  # torch < 2.7
        set_version(tensor, version)
