"""What a forward changes in a model beside its outputs: counters, histories, buffers of losses, momentum networks."""
from __future__ import annotations

import copy
from collections import deque
from contextlib import contextmanager
from typing import Any, ContextManager, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from mmengine.model import BaseAveragedModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Place = Tuple[str, str, str]  # module, name, kind
ATTRIBUTE, BUFFER, VALUES = 'attribute', 'buffer', 'values'  # the last: of a tensor that stays the same object
_NUMBERS = (bool, int, float, str, type(None))


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, deque)):
        return all(isinstance(item, _NUMBERS) for item in value)
    return isinstance(value, _NUMBERS)


class Saved(NamedTuple):
    """A copy of one piece of state.

    Attributes:
        value: The copy.
        original: A buffer itself, None for what is compared by its values.
        version: Of the buffer.
    """
    value: Any
    original: Optional[Tensor] = None
    version: int = 0


State = Dict[Place, Saved]


def read_state(model: nn.Module, known: Optional[State] = None, momentum: bool = False) -> State:
    """Copy plain attributes and buffers; batch norms, which know about passes, keep their own.

    Args:
        model: The model.
        known: Copies made before, of which those of buffers that are still the same serve again.
        momentum: Whether to copy what momentum networks are made of, too: parameters, and the buffers of batch norms
            that have none with a gradient.
    """
    places: List[Place] = []
    for path, module in model.named_modules():
        own = {name: p for name, p in module._parameters.items() if p is not None}
        buffers = [name for name, buffer in module._buffers.items() if buffer is not None]
        if momentum:
            places += [(path, name, VALUES) for name in own]
        if not isinstance(module, _BatchNorm):
            places += [(path, name, BUFFER) for name in buffers]
            places += [(path, name, ATTRIBUTE) for name, value in vars(module).items() if _is_plain(value)]
        elif momentum and own and not any(p.requires_grad for p in own.values()):
            places += [(path, name, VALUES) for name in buffers]
    return read_places(model, places, known)


def read_places(model: nn.Module, places: Sequence[Place], known: Optional[State] = None) -> State:
    """Copy the state at some places; ``known`` as for :func:`read_state`."""
    known = known or {}
    return {(path, name, kind): _save(_owner(model, path, name, kind)[name], kind, known.get((path, name, kind)))
            for path, name, kind in places}


def _owner(model: nn.Module, path: str, name: str, kind: str) -> Dict[str, Any]:
    own = vars(model.get_submodule(path))
    return own if kind == ATTRIBUTE else own['_parameters' if name in own['_parameters'] else '_buffers']


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
    places: List[Place] = []
    averaged = {path: module.steps for path, module in model.named_modules() if isinstance(module, BaseAveragedModel)}
    follows = tuple(f'{path}.' for path, steps in averaged.items() if (path, 'steps', BUFFER) in before
                    and not steps.equal(before[path, 'steps', BUFFER].value))  # its first step may change no value
    for (path, name, kind), saved in before.items():
        owner = _owner(model, path, name, kind)
        now: Any = owner.get(name)
        if kind == VALUES:  # who follows others, or a norm, writes past the counter of versions
            changed = path.startswith(follows) or now.shape == saved.value.shape and not now.equal(saved.value)
        elif kind == BUFFER:
            changed = now is not saved.original or now is not None and now._version != saved.version
        else:
            changed = name in owner and now != saved.value
        if changed:
            places.append((path, name, kind))
    return places


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.copy(value)


def _save(value: Any, kind: str, known: Optional[Saved]) -> Saved:
    if kind == ATTRIBUTE:
        return Saved(copy.copy(value))
    if kind == VALUES:
        return Saved(_copy(value))
    version = value._version
    if known is not None and known.original is value and known.version == version:
        return known
    return Saved(_copy(value), value, version)


@contextmanager
def forward_state(model: nn.Module, state: State) -> Iterator[None]:
    """Let what runs inside find copies of ``state``, and change only those.

    Tensors of momentum networks stay the same objects, as whoever updates them may hold them.
    """
    kept: List[Tuple[Dict[str, Any], str, str, Any]] = []
    for (path, name, kind), saved in state.items():
        owner = _owner(model, path, name, kind)
        if kind == VALUES:
            kept.append((owner, name, kind, owner[name].data))
            owner[name].data = _copy(saved.value)
        else:
            kept.append((owner, name, kind, owner.get(name)))
            owner[name] = _copy(saved.value)
    try:
        yield
    finally:
        for owner, name, kind, value in kept:
            if kind == VALUES:
                owner[name].data = value
            else:
                owner[name] = value


class RegionState:
    """What checkpointed regions find in a model in a forward, so that they find the same when they are recomputed.

    Args:
        model: The model.
        places: Where a forward changes the model, None where that is not known: it is everywhere then.
        protects: Otherwise recomputing a clean pass changes state once more, as it does in the stock model.
    """

    def __init__(self, model: nn.Module, places: Optional[Sequence[Place]], protects: bool) -> None:
        self._model, self.protects = model, protects
        self._places = None if places is None else [place for place in places if place[2] != VALUES]
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
