"""Which modules run once for several passes: their arguments put together, and their results told apart again."""
from __future__ import annotations

import weakref
from typing import Any, Dict, List, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .state import Unjoinable
from .tree import DESCEND, map_tree, tensors_of

_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.Size)
Rows = Tuple[int, ...]


class Joins:
    """Put values of several passes together, without a copy where they have been together before."""

    def __init__(self) -> None:
        self._made: Dict[Rows, Tuple[List[Any], int, Tensor]] = {}

    def join(self, values: Sequence[Any]) -> Tuple[Any, Rows]:
        """Join one nested value of each pass, the tensors of all along their first dimension.

        Args:
            values: Of equal structure; what is no tensor must be equal.

        Returns:
            The value of all, and the number of rows of each.

        Raises:
            Unjoinable: Where they differ in more than the number of rows, or hold no tensor with a row.

        Example:
            >>> value, rows = Joins().join([(torch.zeros(2, 3), 'x'), (torch.zeros(1, 3), 'x')])
            >>> value[0].shape, value[1], rows
            (torch.Size([3, 3]), 'x', (2, 1))
        """
        found: List[Rows] = []
        joined = self._join(values, found)
        if len(set(found)) != 1 or not sum(found[0]):
            raise Unjoinable(f'tensors with rows {sorted(set(found))}')
        return joined, found[0]

    def _join(self, values: Sequence[Any], found: List[Rows]) -> Any:
        first = values[0]
        if all(value is first for value in values):
            return first
        if any(type(value) is not type(first) for value in values) and not all(isinstance(v, Tensor) for v in values):
            raise Unjoinable(f'{[type(value).__name__ for value in values]}')
        if isinstance(first, Tensor):
            return self._tensor(values, found)
        if isinstance(first, dict):
            if any(value.keys() != first.keys() for value in values):
                raise Unjoinable('dicts with other keys')
            return type(first)((key, self._join([value[key] for value in values], found)) for key in first)
        if isinstance(first, (list, tuple)):
            if any(len(value) != len(first) for value in values):
                raise Unjoinable('lists of other lengths')
            items = [self._join(parts, found) for parts in zip(*values)]
            return type(first)(*items) if hasattr(first, '_fields') else type(first)(items)
        if not isinstance(first, _PLAIN) or any(value != first for value in values):
            raise Unjoinable(f'values that differ or cannot be compared, of type {type(first).__name__}')
        return first

    def _tensor(self, parts: Sequence[Tensor], found: List[Rows]) -> Tensor:
        first = parts[0]
        for part in parts:
            if (not part.dim() or part.shape[1:] != first.shape[1:] or part.device != first.device
                    or part.dtype != first.dtype and not (part.is_floating_point() and first.is_floating_point())):
                raise Unjoinable('tensors that do not fit')
        found.append(tuple(map(len, parts)))
        known = self._made.get(tuple(map(id, parts)))
        if known is not None and known[1] == known[2]._version:
            return known[2]
        joined = torch.cat(list(parts))
        self._remember(parts, joined)
        return joined

    def _remember(self, parts: Sequence[Tensor], joined: Tensor) -> None:
        key = tuple(map(id, parts))

        def forget(_: Any) -> None:
            self._made.pop(key, None)

        self._made[key] = [weakref.ref(part, forget) for part in parts], joined._version, joined

    def split(self, value: Any, rows: Rows) -> List[Any]:
        """Tell apart what a module has returned for joined arguments; tensors are views.

        Raises:
            Unjoinable: For a tensor with a gradient that has no rows: it is of all passes.

        Example:
            >>> [len(part) for part in Joins().split(torch.zeros(6, 3), (2, 1))]
            [4, 2]
        """
        total, parts_of = sum(rows), {}
        for tensor in tensors_of(value):
            if tensor.dim() and len(tensor) % total == 0:
                each = len(tensor) // total
                starts = [sum(rows[:number]) * each for number in range(len(rows))]
                # Not `split`, whose views refuse operations in place.
                parts_of[id(tensor)] = [tensor.narrow(0, start, count * each) for start, count in zip(starts, rows)]
                self._remember(parts_of[id(tensor)], tensor)
            elif tensor.requires_grad:
                raise Unjoinable('a tensor of all passes')
        return [_taken(value, parts_of, number) for number in range(len(rows))]


def _taken(value: Any, parts_of: Dict[int, List[Tensor]], number: int) -> Any:
    return map_tree(lambda node: parts_of[id(node)][number] if id(node) in parts_of else
                    node if isinstance(node, Tensor) else DESCEND, value)


def alike(one: Any, other: Any, tolerance: float) -> bool:
    """Whether the tensors of two nested values are equal, up to a share of their largest value.

    Example:
        >>> alike([torch.ones(2)], [torch.ones(2) + 1e-9], 1e-6), alike(torch.ones(2), torch.zeros(2), 1e-6)
        (True, False)
    """
    left, right = tensors_of(one), tensors_of(other)
    return len(left) == len(right) and all(_alike(a, b, tolerance) for a, b in zip(left, right))


def _alike(one: Tensor, other: Tensor, tolerance: float) -> bool:
    if one.shape != other.shape:
        return False
    if not one.is_floating_point() or not one.numel():
        return torch.equal(one, other)
    scale = float(one.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(one.float(), other.float(), rtol=0, atol=tolerance * max(scale, 1e-6), equal_nan=True)


class Meetings:
    """Which modules have been found to run for several passes at once.

    Attributes:
        joinable: By path, whether the rows of its arguments are treated independently.
        undecided: Paths of modules that all passes came to, with arguments that did not fit.
    """

    def __init__(self) -> None:
        self.joinable: Dict[str, bool] = {}
        self.undecided: Dict[str, None] = {}

    def candidates(self, model: nn.Module) -> List[Tuple[str, nn.Module]]:
        """List the modules to stop at: all as long as none is known."""
        if any(self.joinable.values()):
            names = [name for name, good in self.joinable.items() if good]
            return [(name, model.get_submodule(name)) for name in [*names, *self.undecided]]
        inner = {id(part) for m in model.modules() if isinstance(m, _BatchNorm) for part in m.children()}
        skipped = {id(model), id(getattr(model, 'data_preprocessor', None)), *inner}
        return [(name, m) for name, m in model.named_modules() if id(m) not in skipped
                and type(m).forward is not nn.Module.forward and self.joinable.get(name, True)]
