"""One walk through nested values: containers of every kind, and objects that hold tensors in their attributes.

Beside it, what they hold is noted, so that a change in place is seen and undone.
"""
from __future__ import annotations

import copy
import functools
import operator
from collections import deque
from typing import Any, Callable, Dict, Hashable, Iterator, List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

DESCEND = object()
MUTABLE = (list, dict, set, deque)
WINDOW = 16  # items of a list that are noted in a step, others in the next ones
_LARGE = 1 << 16  # bytes of an array
# The walk ends here, the sooner the better: these are most of what data samples consist of.
PLAIN = {type(None), bool, int, float, complex, str, bytes, np.ndarray, torch.device, torch.dtype, torch.Size}


@functools.lru_cache(maxsize=None)
def _slots(cls: type) -> Tuple[str, ...]:
    names = [vars(base).get('__slots__', ()) for base in cls.__mro__]
    listed = [name for found in names for name in ([found] if isinstance(found, str) else found)]
    return tuple(name for name in listed if name[:2] != '__')


def attributes_of(value: Any) -> Optional[Dict[str, Any]]:
    """Return the attributes of an object that is walked as a container is; None for others.

    Functions, modules, classes and everything else that can be called are no containers.
    """
    if isinstance(value, (type, Tensor)) or callable(value):
        return None
    kind: Any = type(value)
    own, slots = getattr(value, '__dict__', None), _slots(kind)
    if slots:
        return {**(own or {}), **{name: getattr(value, name) for name in slots if hasattr(value, name)}}
    return own


def children_of(value: Any) -> Optional[Iterator[Tuple[Any, Any]]]:
    """Return what a container holds, with the key, number or name of each; None where a walk ends."""
    if type(value) in PLAIN or isinstance(value, (Tensor, str)):
        return None
    if isinstance(value, dict):
        return iter(value.items())
    if isinstance(value, (list, tuple, deque)):
        return enumerate(value)
    attributes = None if isinstance(value, (set, frozenset)) else attributes_of(value)
    return None if attributes is None else iter(attributes.items())


def map_tree(function: Callable[[Any], Any], value: Any, keeps: bool = False) -> Any:
    """Rebuild a nested value; what is no container stays the same object, and what is there twice stays one.

    Containers are dicts, lists, deques, tuples, named tuples and sets, with their subclasses, and objects with
    attributes, such as dataclasses, mmengine's data elements and mmdet's boxes.

    Args:
        function: Is asked at every node, outermost first: returns what takes its place, or ``DESCEND``.
        value: The value; not modified.
        keeps: Whether a container in which nothing is replaced stays the same object too.

    Example:
        >>> map_tree(lambda v: v + 1 if isinstance(v, int) else DESCEND, dict(a=[1, (2, 'x')]))
        {'a': [2, (3, 'x')]}
    """
    made: Dict[int, Any] = {}

    def walk(node: Any) -> Any:
        key = id(node)
        if key not in made:
            new = function(node)
            made[key] = rebuild(node) if new is DESCEND else new
        return made[key]

    def rebuild(node: Any) -> Any:
        children = children_of(node)
        if children is None:
            return copy.copy(node) if isinstance(node, set) and not keeps else node
        if isinstance(node, tuple):
            items = [walk(item) for _, item in children]
            if keeps and all(new is old for new, old in zip(items, node)):
                return node
            return type(node)(*items) if hasattr(node, '_fields') else type(node)(items)
        made[id(node)] = new = copy.copy(node)  # before its content, which may lead back to it
        found = [(name, item, walk(item)) for name, item in children]
        if keeps and all(one is item for _, item, one in found):
            made[id(node)] = node
            return node
        _fill(new, [(name, one) for name, _, one in found])
        return new

    return walk(value)


def _fill(container: Any, children: List[Tuple[Any, Any]]) -> None:
    """Put other children in the places of a container's own."""
    if isinstance(container, (dict, list)):
        for name, child in children:
            container[name] = child
    elif isinstance(container, deque):
        container.clear()
        container.extend(child for _, child in children)
    else:  # frozen dataclasses and objects with setters of their own among them
        own = getattr(container, '__dict__', {})
        for name, child in children:
            if name in own:
                own[name] = child
            else:
                object.__setattr__(container, name, child)


def map_tensors(function: Callable[[Tensor], Any], value: Any, keeps: bool = False) -> Any:
    """Apply a function to every tensor of a nested value; arguments as of :func:`map_tree`.

    Example:
        >>> map_tensors(lambda t: t + 1, (torch.zeros(1), 'x'))
        (tensor([1.]), 'x')
    """
    if isinstance(value, Tensor):
        return function(value)
    return map_tree(lambda node: function(node) if isinstance(node, Tensor) else DESCEND, value, keeps)


def tensors_of(value: Any) -> List[Tensor]:
    """List the tensors of a nested value, in order, each once."""
    if isinstance(value, Tensor):
        return [value]
    found: List[Tensor] = []
    waiting, seen = [value], set()
    while waiting:
        node = waiting.pop()
        if type(node) in PLAIN or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Tensor):
            found.append(node)
            continue
        waiting.extend(reversed([child for _, child in children_of(node) or ()]))
    return found


def snapshot(value: Any, function: Callable[[Tensor], Tensor] = Tensor.detach) -> Any:
    """Copy a result so that what the caller does to it stays its own; tensors share their memory.

    Example:
        >>> result = dict(boxes=torch.zeros(1))
        >>> kept = snapshot(result)
        >>> boxes = result.pop('boxes')
        >>> sorted(kept)
        ['boxes']
    """
    return map_tensors(function, value)


def copy_values(tensor: Tensor) -> Tensor:
    """Copy a tensor that stock code may write to, as by numpy, which shares its memory and no counter of versions."""
    return tensor.detach().clone()


def holds_same(container: Any, content: Any) -> bool:
    """Whether a container holds the same objects, or a set equal ones, as another one of its kind."""
    if len(container) != len(content):
        return False
    if isinstance(container, dict):
        return container.keys() == content.keys() and all(
            map(operator.is_, map(container.get, content), content.values()))
    return container == content if isinstance(container, set) else all(map(operator.is_, container, content))


def refill(container: Any, content: Any) -> None:
    """Let a container hold what another one of its kind holds."""
    container.clear()
    (container.extend if isinstance(container, (list, deque)) else container.update)(content)


@functools.lru_cache(maxsize=None)
def _kind(cls: type) -> Any:
    """Return as which base of it :class:`Contents` notes what is of a class; None: not at all."""
    for base in (Tensor, np.ndarray, *MUTABLE, tuple):
        if issubclass(cls, base):
            return base
    ends = cls in PLAIN or issubclass(cls, (str, type)) or any('__call__' in vars(base) for base in cls.__mro__)
    return None if ends else object


class Contents:
    """What a nested value holds, noted without a copy of any tensor.

    Of long lists some items are noted, others in other steps, so that a step takes the same time at any batch size.

    Args:
        value: Nested; not modified.
        number: Of the step.
    """

    def __init__(self, value: Any, number: int) -> None:
        self._tensors: List[Tuple[Tensor, int]] = []
        self._kept: List[Tuple[Any, Any]] = []
        self._arrays: List[Tuple[np.ndarray, np.ndarray]] = []
        waiting, seen = [value], set()
        for node in waiting:  # which grows
            cls: Hashable = node.__class__
            kind = _kind(cls)
            if kind is None or id(node) in seen:
                continue
            seen.add(id(node))
            if kind is Tensor:
                if not node.is_inference():
                    self._tensors.append((node, node._version))
            elif kind is np.ndarray:
                if node.nbytes <= _LARGE:
                    self._arrays.append((node, node.copy()))
            elif kind is object:
                if hasattr(node, '__dict__'):
                    self._kept.append((vars(node), vars(node).copy()))
                waiting += (attributes_of(node) or {}).values()
            else:
                if kind is not tuple:
                    self._kept.append((node, node.copy()))
                if kind is dict:
                    waiting += node.values()
                elif kind is not set:
                    begin = number * WINDOW % len(node) if len(node) > WINDOW else 0
                    waiting += [*node, *node][begin:begin + min(len(node), WINDOW)]

    def put_back(self) -> Optional[bool]:
        """Put back what has changed; None: nothing has; False: a tensor has, whose values are gone."""
        changed = [(now, before) for now, before in self._kept if not holds_same(now, before)]
        for now, before in changed:
            refill(now, before)
        for array, kept in self._arrays:
            if not np.array_equal(array, kept, equal_nan=array.dtype.kind in 'fc'):
                array[...] = kept
                changed.append((array, kept))
        for tensor, version in self._tensors:
            if tensor._version != version:
                return False
        return True if changed else None
