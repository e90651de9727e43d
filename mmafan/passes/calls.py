"""Methods whose results an adversarial pass takes from the clean one.

Hooks see modules only. Where a codebase works outside of them (losses and proposals of an RPN, sampling of RoIs), its
mixin names the methods, and they are recorded and replayed as modules are.
"""
from __future__ import annotations

import copy
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from mmengine.structures import BaseDataElement
from torch import Tensor

_ABSENT = object()


class WatchedCall(NamedTuple):
    """A method to record.

    Attributes:
        owner: The object it is called on; a module or anything with attributes of its own.
        name: Name of the method.
        paired: Whether every adversarial pass gets the clean results, also where the call comes after the tap; for
            what has no gradient and must not differ between the passes, such as proposals and sampled RoIs. Other
            calls replay where they finished before the tap, or where the losses of the tap do not depend on them.
        per_sample: Whether it is called once for every sample, in their order.
    """
    owner: Any
    name: str
    paired: bool = False
    per_sample: bool = False

    @property
    def key(self) -> Any:
        """What identifies the method."""
        return id(self.owner), self.name


def snapshot(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Copy a result so that what the caller does to it stays its own; tensors go through ``function``.

    Lists, dicts, mmengine's data elements and plain objects with attributes are copied, their tensors are shared.

    Example:
        >>> import torch
        >>> result = dict(boxes=torch.zeros(1))
        >>> kept = snapshot(Tensor.detach, result)
        >>> boxes = result.pop('boxes')
        >>> sorted(kept)
        ['boxes']
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, BaseDataElement):
        new = value.new()
        for name, item in value.items():
            new.set_field(snapshot(function, item), name)
        return new
    if isinstance(value, dict):
        made = copy.copy(value)
        for name in value:
            made[name] = snapshot(function, value[name])
        return made
    if isinstance(value, tuple) and hasattr(value, '_fields'):
        return type(value)(*(snapshot(function, item) for item in value))
    if type(value) in (list, tuple):
        return type(value)(snapshot(function, item) for item in value)
    if hasattr(value, '__dict__') and not isinstance(value, type) and not callable(value):
        made = copy.copy(value)
        vars(made).update({name: snapshot(function, item) for name, item in vars(value).items()})
        return made
    return value


def tensors_in(value: Any) -> List[Tensor]:
    """List the tensors that :func:`snapshot` finds."""
    found: List[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    snapshot(keep, value)
    return found


def select_elements(value: Any, indices: Optional[Tensor], size: int) -> Any:
    """Keep some samples of every list of data elements, one for each sample, in a result.

    Args:
        value: What a method returned; lists may lie in tuples and dicts.
        indices: Long tensor ``(M,)``, or None for all.
        size: Number of samples.
    """
    if indices is None:
        return value
    if (isinstance(value, list) and value and len(value) % size == 0
            and all(isinstance(v, BaseDataElement) for v in value)):
        chosen = set(indices.tolist())  # some heads return several elements for each sample, branch after branch
        return [v for k, v in enumerate(value) if k % size in chosen]
    if isinstance(value, dict):
        return {name: select_elements(item, indices, size) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(select_elements(item, indices, size) for item in value)
    return value


class Patches:
    """Methods replaced on objects themselves, and put back."""

    def __init__(self) -> None:
        self._before: List[Any] = []

    def set(self, owner: Any, name: str, function: Any) -> None:
        """Replace ``owner.name``."""
        own: Dict[str, Any] = vars(owner)
        self._before.append((own, name, own.get(name, _ABSENT)))
        own[name] = function

    def undo(self) -> None:
        """Put everything back, last first."""
        while self._before:
            own, name, value = self._before.pop()
            if value is _ABSENT:
                del own[name]
            else:
                own[name] = value
