"""Whether a forward has changed its batch, told from the copy that it was given."""
from __future__ import annotations

from typing import Any, Optional, Set

import numpy as np
import torch
from torch import Tensor

from .tree import children_of


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
        if before.shape != after.shape or before.dtype != after.dtype:
            return True
        if before.dtype == object:
            return any(differs(*pair, seen) for pair in zip(before.flat, after.flat))
        return not np.array_equal(before, after, equal_nan=before.dtype.kind in 'fc')
    if isinstance(before, (set, frozenset)):
        return before != after
    found = children_of(before)
    if found is None:
        return bool(before != after)
    children, others = dict(found), dict(children_of(after) or ())
    return [*children] != [*others] or any(differs(child, others[key], seen) for key, child in children.items())
