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
        if before.dtype == object:
            return differs(list(before.flat), list(after.flat), seen)
        return not np.array_equal(before, after, equal_nan=before.dtype.kind in 'fc')
    if isinstance(before, (set, frozenset)):
        return before != after
    children = [dict(found) if found is not None else None for found in (children_of(before), children_of(after))]
    if children[0] is None or children[1] is None:
        return bool(before != after)
    return [*children[0]] != [*children[1]] or any(differs(children[0][k], children[1][k], seen) for k in children[0])
