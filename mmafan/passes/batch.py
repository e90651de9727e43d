"""The arguments of a loss call, and the selection of some of its samples."""
from __future__ import annotations

from typing import Any, Dict, Tuple

import torch
from torch import Tensor


def batch_size_of(value: Any) -> int:
    """Number of samples in model inputs: a tensor ``(N, ...)``, a list of N images, or a dict of either.

    Raises:
        TypeError: If the inputs are none of these.
    """
    if isinstance(value, Tensor):
        return value.shape[0]
    if isinstance(value, (list, tuple)):
        return len(value)
    if isinstance(value, dict) and value:
        return batch_size_of(next(iter(value.values())))
    raise TypeError(f'model inputs must be a tensor, a list or a dict of them, got {type(value).__name__}')


def select_samples(value: Any, indices: Tensor, size: int) -> Any:
    """Keep some samples of every tensor and list whose first dimension counts the samples.

    Args:
        value: A tensor, list, tuple, dict, or anything else (returned as it is).
        indices: Long tensor ``(M,)`` on the CPU.
        size: Number of samples N in the batch.

    Example:
        >>> select_samples([torch.arange(3), ['a', 'b', 'c'], 'x'], torch.tensor([2, 0]), 3)
        [tensor([2, 0]), ['c', 'a'], 'x']
    """
    if isinstance(value, Tensor):
        return value[indices.to(value.device)] if value.dim() and value.shape[0] == size else value
    if isinstance(value, dict):
        return type(value)((k, select_samples(v, indices, size)) for k, v in value.items())
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        if len(value) == size and not any(isinstance(v, Tensor) and v.dim() and v.shape[0] == size
                                          for v in value):
            return type(value)(value[i] for i in indices.tolist())
        return type(value)(select_samples(v, indices, size) for v in value)
    return value


class Batch:
    """Arguments of one loss call; its inputs are the keyword ``inputs``, or else the first argument."""

    def __init__(self, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> None:
        self.args = tuple(args)
        self.kwargs = dict(kwargs)
        self._key: Any = 'inputs' if 'inputs' in kwargs else 0 if args else next(iter(kwargs))

    @property
    def inputs(self) -> Any:
        """The model inputs, already preprocessed."""
        return self.args[0] if self._key == 0 else self.kwargs[self._key]

    @property
    def size(self) -> int:
        """Number of samples."""
        return batch_size_of(self.inputs)

    def with_inputs(self, inputs: Any) -> 'Batch':
        """Return the same batch with other inputs."""
        if self._key == 0:
            return Batch((inputs, *self.args[1:]), self.kwargs)
        return Batch(self.args, {**self.kwargs, self._key: inputs})

    def select(self, indices: Tensor) -> 'Batch':
        """Return the batch of the samples ``indices`` alone."""
        size = self.size
        args = tuple(select_samples(a, indices, size) for a in self.args)
        return Batch(args, {k: select_samples(v, indices, size) for k, v in self.kwargs.items()})


def tensors_of(value: Any) -> list:
    """List the tensors of nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in tensors_of(v)]
    return []


def map_tensors(function: Any, value: Any) -> Any:
    """Apply a function to every tensor of nested tuples, lists and dicts; everything else stays.

    Example:
        >>> map_tensors(lambda t: t + 1, (torch.zeros(1), 'x'))
        (tensor([1.]), 'x')
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return type(value)((k, map_tensors(function, v)) for k, v in value.items())
    if isinstance(value, tuple) and hasattr(value, '_fields'):
        return type(value)(*(map_tensors(function, v) for v in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(function, v) for v in value)
    return value


def is_feature(tensor: Tensor) -> bool:
    """Whether a tap perturbs this tensor: floating, with a dimension of samples."""
    return torch.is_floating_point(tensor) and tensor.dim() > 0
