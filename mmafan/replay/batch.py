"""Nested batches, outputs and results: one walk through them, and the selection of some samples."""
from __future__ import annotations

import copy
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

DESCEND = object()


def map_tree(function: Callable[[Any], Any], value: Any, objects: bool = False) -> Any:
    """Rebuild a nested value; what is no container stays the same object.

    Containers are dicts, lists, tuples and named tuples, with their subclasses.

    Args:
        function: Is asked at every node, outermost first: returns what takes its place, or ``DESCEND``.
        value: The value; not modified.
        objects: Whether objects with attributes, such as mmengine's data elements and mmdet's boxes, are containers
            too; functions, modules and classes never are.

    Example:
        >>> map_tree(lambda v: v + 1 if isinstance(v, int) else DESCEND, dict(a=[1, (2, 'x')]))
        {'a': [2, (3, 'x')]}
    """
    made = function(value)
    if made is not DESCEND:
        return made
    if isinstance(value, dict):
        made = copy.copy(value)
        for name in value:
            made[name] = map_tree(function, value[name], objects)
        return made
    if isinstance(value, (list, tuple)):
        items = [map_tree(function, item, objects) for item in value]
        return type(value)(*items) if hasattr(value, '_fields') else type(value)(items)
    if objects and isinstance(value, set):
        return value.copy()
    if objects and hasattr(value, '__dict__') and not isinstance(value, type) and not callable(value):
        made = copy.copy(value)
        vars(made).update({name: map_tree(function, item, objects) for name, item in vars(value).items()})
        return made
    return value


def map_tensors(function: Callable[[Tensor], Any], value: Any, objects: bool = False) -> Any:
    """Apply a function to every tensor of a nested value; arguments as of :func:`map_tree`.

    Example:
        >>> import torch
        >>> map_tensors(lambda t: t + 1, (torch.zeros(1), 'x'))
        (tensor([1.]), 'x')
    """
    if isinstance(value, Tensor):
        return function(value)
    return map_tree(lambda node: function(node) if isinstance(node, Tensor) else DESCEND, value, objects)


def tensors_of(value: Any, objects: bool = False) -> List[Tensor]:
    """List the tensors of a nested value, in order."""
    found: List[Tensor] = []
    map_tensors(found.append, value, objects)
    return found


def snapshot(value: Any) -> Any:
    """Detach and copy a result so that what the caller does to it stays its own; tensors share their memory.

    Example:
        >>> import torch
        >>> result = dict(boxes=torch.zeros(1))
        >>> kept = snapshot(result)
        >>> boxes = result.pop('boxes')
        >>> sorted(kept)
        ['boxes']
    """
    return map_tensors(Tensor.detach, value, objects=True)


def is_feature(tensor: Tensor) -> bool:
    """Whether a tap perturbs this tensor: floating, with a dimension of samples."""
    return tensor.is_floating_point() and tensor.dim() > 0


def batch_size_of(value: Any) -> int:
    """Number of samples in model inputs: a tensor ``(N, ...)``, a list of N images, or a dict of either.

    Raises:
        TypeError: If the inputs are none of these.
    """
    if isinstance(value, (Tensor, list, tuple)):
        return len(value)
    if isinstance(value, dict) and value:
        return batch_size_of(next(iter(value.values())))
    raise TypeError(f'model inputs must be a tensor, a list or a dict of them, got {type(value).__name__}')


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Copy what has just been made on the host to a device, without waiting for either."""
    return (values.pin_memory() if device.type == 'cuda' else values).to(device, non_blocking=True)


class Chosen:
    """Some samples of a batch.

    Args:
        indices: Long tensor ``(M,)`` on the CPU, ascending.
        size: Number of samples N in the batch.
    """

    def __init__(self, indices: Tensor, size: int) -> None:
        self.indices, self.size = indices, size
        self.numbers: List[int] = indices.tolist()
        self._uploaded: Dict[torch.device, Tensor] = {}

    def on(self, device: torch.device) -> Tensor:
        """Return the indices on a device; they travel once to each."""
        if device not in self._uploaded:
            self._uploaded[device] = upload(self.indices, device)
        return self._uploaded[device]

    def rows(self, tensor: Tensor) -> Tensor:
        """Return the rows of the samples."""
        return tensor.index_select(0, self.on(tensor.device))


def select_samples(value: Any, chosen: Optional[Chosen]) -> Any:
    """Keep some samples of every tensor and list whose first dimension counts the samples.

    Example:
        >>> select_samples([torch.arange(3), ['a', 'b', 'c'], 'x'], Chosen(torch.tensor([0, 2]), 3))
        [tensor([0, 2]), ['a', 'c'], 'x']
    """
    if chosen is None:
        return value

    def of_samples(node: Any) -> bool:
        return isinstance(node, Tensor) and node.dim() > 0 and len(node) == chosen.size

    def select(node: Any) -> Any:
        if isinstance(node, Tensor):
            return chosen.rows(node) if of_samples(node) else node
        if type(node) in (list, tuple) and len(node) == chosen.size and not any(map(of_samples, node)):
            return type(node)(node[number] for number in chosen.numbers)
        return DESCEND

    return map_tree(select, value)


def select_elements(value: Any, chosen: Optional[Chosen]) -> Any:
    """Keep some samples of every list of data elements in what a method returned; all else stays as it is.

    Some heads return several elements for each sample, branch after branch.
    """
    if chosen is None:
        return value

    def select(node: Any) -> Any:
        if (isinstance(node, list) and node and len(node) % chosen.size == 0
                and all(isinstance(item, BaseDataElement) for item in node)):
            return [item for number, item in enumerate(node) if number % chosen.size in chosen.numbers]
        return DESCEND

    return map_tree(select, value)


class Batch:
    """Arguments of one loss call; its inputs are the keyword ``inputs``, or else the first argument."""

    def __init__(self, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> None:
        self.args = tuple(args)
        self.kwargs = dict(kwargs)
        self._key: Any = 'inputs' if 'inputs' in kwargs else 0 if args else next(iter(kwargs))

    @classmethod
    def of(cls, data: Any) -> 'Batch':
        """Make the batch of what a data preprocessor returns: a dict, or positional arguments."""
        return cls((), data) if isinstance(data, dict) else cls(tuple(data), {})

    @property
    def inputs(self) -> Any:
        """The model inputs, already preprocessed."""
        return self.args[0] if self._key == 0 else self.kwargs[self._key]

    @property
    def size(self) -> int:
        """Number of samples."""
        return batch_size_of(self.inputs)

    def copy(self) -> 'Batch':
        """Return a copy whose containers and data elements may be changed; tensors share their memory."""
        return Batch(*map_tensors(lambda tensor: tensor, (self.args, self.kwargs), objects=True))

    def with_inputs(self, inputs: Any) -> 'Batch':
        """Return the same batch with other inputs."""
        if self._key == 0:
            return Batch((inputs, *self.args[1:]), self.kwargs)
        return Batch(self.args, {**self.kwargs, self._key: inputs})

    def select(self, chosen: Optional[Chosen]) -> 'Batch':
        """Return the batch of some samples alone; None for all."""
        args = tuple(select_samples(value, chosen) for value in self.args)
        return Batch(args, {name: select_samples(value, chosen) for name, value in self.kwargs.items()})
