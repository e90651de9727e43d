"""What layers leave in attributes in a forward, such as the balancing loss of a mixture of experts.

A pass in which a layer replays must find there what the layer left in the clean pass, as a constant; and after a pass
every attribute is again what the clean pass left.
"""
from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import Any, Dict, FrozenSet, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .batch import Chosen, select_samples
from .tree import MUTABLE, holds_same, refill, snapshot

AttributePlace = Tuple[str, str]  # module, name
_ABSENT = object()
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


class Left(NamedTuple):
    """What a module left in an attribute of its own or of a module inside it; ``value`` is detached."""
    module: nn.Module
    name: str
    value: Any


def _note(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, MUTABLE) else value


def _is_same(noted: Any, now: Any) -> bool:
    return type(noted) is type(now) and holds_same(now, noted) if isinstance(noted, MUTABLE) else noted is now


class Attributes:
    """The attributes that a clean pass sets in the modules of a model.

    Args:
        model: The model.
        places: Where; None: not known, all are looked at.
    """

    def __init__(self, model: nn.Module, places: Optional[FrozenSet[AttributePlace]]) -> None:
        self._model = model
        self.places: Set[AttributePlace] = set(places or ())
        self._before: Dict[str, Dict[str, Any]] = {}
        if places is None:
            self._before = {path: {name: _note(value) for name, value in _own(module).items()}
                            for path, module in model.named_modules() if not isinstance(module, _BatchNorm)}
        self._begin = {place: self._value(place) for place in self.places}

    def _value(self, place: AttributePlace) -> Any:
        return snapshot(vars(self._model.get_submodule(place[0])).get(place[1], _ABSENT))

    def look(self, path: str, module: nn.Module) -> None:
        """Find what has been set in a module since the pass began, where that is not known yet."""
        before = self._before.get(path)
        if before is None:
            return
        now = _own(module)
        for name in {**before, **now}:
            if (path, name) not in self.places and not _is_same(before.get(name, _ABSENT), now.get(name, _ABSENT)):
                self.places.add((path, name))
                self._begin[path, name] = snapshot(before.get(name, _ABSENT))

    def finish(self) -> None:
        """The pass is over: find what was set outside of a module's own forward."""
        for path in self._before:
            self.look(path, self._model.get_submodule(path))
        self._before = {}

    def left_by(self, path: str) -> List[Left]:
        """List what a module that has just finished has left in itself and in the modules inside."""
        found = [place for place in self.places if place[0] == path or place[0].startswith(f'{path}.')]
        return [Left(self._model.get_submodule(inner), name, self._value((inner, name))) for inner, name in found]

    @contextmanager
    def protected(self) -> Iterator[None]:
        """Let a pass that runs inside find what the clean one found; put everything back at its end."""
        kept = {place: vars(self._model.get_submodule(place[0])).get(place[1], _ABSENT) for place in self.places}
        noted = {place: _note(value) for place, value in kept.items()}
        for (path, name), value in self._begin.items():
            _set(vars(self._model.get_submodule(path)), name, snapshot(value))
        try:
            yield
        finally:
            for (path, name), value in kept.items():
                own = vars(self._model.get_submodule(path))
                if value is not _ABSENT:
                    own[name] = value  # first the object, then what it held
                _set(own, name, noted[path, name])


def _own(module: nn.Module) -> Dict[str, Any]:
    # FSDP keeps what it has gathered of a module's parameters in tensors of its own, and puts them away again.
    gathered = Tensor if getattr(module, '_is_fsdp_managed_module', False) else ()
    return {name: value for name, value in vars(module).items()
            if name not in _OF_EVERY_MODULE and not isinstance(value, gathered)}


def _set(own: Dict[str, Any], name: str, value: Any) -> None:
    """Set or delete an attribute; a container stays the same object, which others may share."""
    now = own.get(name)
    if value is _ABSENT:
        own.pop(name, None)
    elif isinstance(value, MUTABLE) and type(now) is type(value):
        refill(now, value)
    else:
        own[name] = value


def leave(left: Sequence[Left], chosen: Optional[Chosen]) -> None:
    """Do to attributes what a module did that replays now, for some samples alone if not for all."""
    for module, name, value in left:
        _set(vars(module), name, snapshot(select_samples(value, chosen)))


@contextmanager
def exchanged(model: nn.Module, places: Iterable[AttributePlace], left: Dict[AttributePlace, Any]) -> Iterator[None]:
    """Let what runs inside find the attributes that it has left before; put those of the others back at its end.

    Args:
        model: The model.
        places: The attributes.
        left: What it has left; changed.
    """
    owners = {place: vars(model.get_submodule(place[0])) for place in places}

    def read() -> Dict[AttributePlace, Any]:
        values = {place: own.get(place[1], _ABSENT) for place, own in owners.items()}
        return {place: (value, _note(value)) for place, value in values.items()}

    def write(values: Dict[AttributePlace, Any]) -> None:
        for place, (value, content) in values.items():
            if value is not _ABSENT:
                owners[place][place[1]] = value  # first the object, then what it held
            _set(owners[place], place[1], content)

    others = read()
    write(left)
    try:
        yield
    finally:
        left.update(read())
        write(others)
