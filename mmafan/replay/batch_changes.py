"""What a forward changes in its batch: every pass of a step must find what the first one found."""
from __future__ import annotations

import operator
from collections import deque
from typing import Any, List, Optional, Set, Tuple

import numpy as np
import torch
from torch import Tensor

from .tree import PLAIN, attributes_of, children_of

WINDOW = 16  # items of a list that are looked at in a step, others in the next ones
_LARGE = 1 << 16  # bytes


def differs(before: Any, after: Any, seen: Optional[Set[int]] = None) -> bool:
    """Whether a forward has changed the copy of a nested value: what its containers hold, tensors and arrays.

    Args:
        before: The value.
        after: The copy a forward was given, whose tensors were fresh clones.
        seen: What has been compared already, by ``id``.

    Example:
        >>> differs(dict(a=[1]), dict(a=[1])), differs(dict(a=[1]), dict(a=[]))
        (False, True)
    """
    seen = set() if seen is None else seen
    if before is after or id(before) in seen:
        return False
    seen.add(id(before))
    if type(before) is not type(after):
        return True
    if isinstance(before, Tensor):
        # Versions do not show what is done to `tensor.data` or through an array that shares the memory.
        if before.shape != after.shape or before.dtype != after.dtype or after._version:
            return True
        if before.layout is not torch.strided or before.device.type == 'meta':
            return False
        return bool(((before != after) & ((before == before) | (after == after))).any())  # NaN is NaN
    if isinstance(before, np.ndarray):
        if before.dtype == object:
            return differs(list(before.flat), list(after.flat), seen)
        return not np.array_equal(before, after, equal_nan=before.dtype.kind in 'fc')
    if isinstance(before, (set, frozenset)):
        return before != after
    children = [dict(found) if found is not None else None for found in (children_of(before), children_of(after))]
    if children[0] is None or children[1] is None:
        return bool(before != after)
    return [*children[0]] != [*children[1]] or any(differs(children[0][k], children[1][k], seen) for k in children[0])


class Contents:
    """What a batch holds before a forward, noted without a copy of any tensor.

    Of long lists some items are noted, others in other steps, so that a step takes the same time at any batch size.

    Args:
        value: Nested; not modified.
        number: Of the step.
    """

    def __init__(self, value: Any, number: int) -> None:
        self._tensors: List[Tuple[Tensor, int]] = []
        self._kept: List[Tuple[Any, Any]] = []
        waiting, seen = [value], set()
        while waiting:
            node = waiting.pop()
            if id(node) in seen or type(node) in PLAIN and not isinstance(node, np.ndarray):
                continue
            seen.add(id(node))
            if isinstance(node, Tensor):
                if not node.is_inference():
                    self._tensors.append((node, node._version))
            elif isinstance(node, np.ndarray):
                if node.nbytes <= _LARGE:
                    self._kept.append((node, node.copy()))
            else:
                waiting.extend(self._note(node, number))

    def _note(self, node: Any, number: int) -> List[Any]:
        """Keep a container's content; return what is to be looked at in it."""
        if isinstance(node, (dict, list, set, deque)):
            self._kept.append((node, node.copy()))
        if isinstance(node, dict):
            return list(node.values())
        if isinstance(node, (list, tuple, deque)):
            begin = number * WINDOW % max(len(node), 1) if len(node) > WINDOW else 0
            return [*node, *node][begin:begin + min(len(node), WINDOW)]
        attributes = None if isinstance(node, (str, set)) else attributes_of(node)
        if attributes is None:
            return []
        if hasattr(node, '__dict__'):
            self._kept.append((vars(node), vars(node).copy()))
        return list(attributes.values())

    def put_back(self) -> Optional[bool]:
        """Put back what has changed; None: nothing has; False: a tensor has, whose values are gone."""
        changed = [(now, before) for now, before in self._kept if not _is_same(now, before)]
        for now, before in changed:
            if isinstance(now, np.ndarray):
                now[...] = before
                continue
            now.clear()
            (now.extend if isinstance(now, (list, deque)) else now.update)(before)
        if any(tensor._version != version for tensor, version in self._tensors):
            return False
        return True if changed else None


def _is_same(now: Any, before: Any) -> bool:
    if isinstance(now, np.ndarray):
        return np.array_equal(now, before, equal_nan=now.dtype.kind in 'fc')
    if len(now) != len(before):
        return False
    if isinstance(now, dict):
        return now.keys() == before.keys() and all(map(operator.is_, map(now.get, before), before.values()))
    return now == before if isinstance(now, set) else all(map(operator.is_, now, before))
