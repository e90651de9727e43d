"""The batch of a loss call, and the selection of some of its samples."""
from __future__ import annotations

import copy
import functools
import inspect
from types import MethodType
from typing import Any, Callable, Dict, FrozenSet, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from .batch_changes import differs
from .tree import DESCEND, children_of, map_tree, tensors_of

INPUTS = 'inputs'
REST = 'rest'
Path = Tuple[Any, ...]


def is_feature(tensor: Tensor) -> bool:
    """Whether a tap perturbs this tensor: dense and floating, with a dimension of samples."""
    return tensor.is_floating_point() and tensor.dim() > 0 and tensor.layout is torch.strided


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


def _place_of_inputs(function: Callable[..., Any], num_args: int, names: Sequence[str]) -> Union[int, str]:
    """Return where the inputs are in a call: the parameter ``inputs``, or else the first one that is given."""
    places: Dict[str, Union[int, str]] = {name: name for name in names if name != 'mode'}
    parameters = inspect.signature(function).parameters.values()
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    places.update({name: number for number, name in zip(range(num_args), positional)})
    order = ['inputs', *(p.name for p in parameters), *places]
    return next((places[name] for name in order if name in places), 0)


@functools.lru_cache
def _place_in_method(method: Callable[..., Any], num_args: int, names: Sequence[str]) -> Union[int, str]:
    return _place_of_inputs(MethodType(method, object()), num_args, names)  # to read a signature takes its time


class Batch:
    """Arguments of one loss call.

    Args:
        args: By position.
        kwargs: By name.
        function: What is called; by its signature the inputs are found.
    """

    def __init__(self, args: Sequence[Any], kwargs: Dict[str, Any],
                 function: Callable[..., Any] = lambda: None) -> None:
        self.args = tuple(args)
        self.kwargs = dict(kwargs)
        method, call = getattr(function, '__func__', None), (len(self.args), tuple(self.kwargs))
        self._key = _place_of_inputs(function, *call) if method is None else _place_in_method(method, *call)

    @classmethod
    def of(cls, data: Any, function: Callable[..., Any] = lambda: None) -> 'Batch':
        """Make the batch of what a data preprocessor returns: a dict, or positional arguments."""
        return cls((), data, function) if isinstance(data, dict) else cls(data, {}, function)

    def _with(self, args: Any, kwargs: Any) -> 'Batch':
        made = copy.copy(self)
        made.args, made.kwargs = tuple(args), kwargs
        return made

    @property
    def inputs(self) -> Any:
        """The model inputs, already preprocessed."""
        return self.args[self._key] if isinstance(self._key, int) else self.kwargs[self._key]

    @property
    def size(self) -> int:
        """Number of samples."""
        return batch_size_of(self.inputs)

    def own(self, changed: Optional[FrozenSet[str]] = None) -> 'Batch':
        """Return what a pass may change: a copy where a forward changes its batch.

        Args:
            changed: As :meth:`changes` gives it; None where that is not known.
        """
        if changed is not None and not changed:
            return self
        shared = {id(t) for t in tensors_of(self.inputs)} if changed is not None and INPUTS not in changed else ()

        def copy_of(node: Any) -> Any:
            if isinstance(node, Tensor):
                return node if id(node) in shared else node.clone()
            return copy.deepcopy(node) if isinstance(node, np.ndarray) else DESCEND

        return self._with(*map_tree(copy_of, (self.args, self.kwargs)))

    def changes(self, own: 'Batch') -> FrozenSet[str]:
        """Return what a forward has changed in a whole copy of the batch: its ``'inputs'``, the ``'rest'``."""
        places: List[Tuple[Any, Any, Any]] = [(k, v, own.args[k]) for k, v in enumerate(self.args)]
        places += [(name, value, own.kwargs[name]) for name, value in self.kwargs.items()]
        return frozenset(INPUTS if key == self._key else REST for key, before, after in places
                         if differs(before, after))

    def with_inputs(self, inputs: Any) -> 'Batch':
        """Return the same batch with other inputs."""
        if isinstance(self._key, int):
            return self._with((*self.args[:self._key], inputs, *self.args[self._key + 1:]), self.kwargs)
        return self._with(self.args, {**self.kwargs, self._key: inputs})

    def select(self, chosen: Optional[Chosen], known: Optional[FrozenSet[Path]] = None) -> 'Batch':
        """Return the batch of some samples alone; None for all.

        Args:
            chosen: The samples.
            known: What belongs to a sample, as :meth:`per_sample` gives it; None: all that looks so.
        """
        if chosen is None:
            return self
        places = self._places()

        def cut(node: Any) -> Any:
            place = places.get(id(node))
            if not _counts(node, chosen.size) or known is not None and place not in known and place != (self._key, ):
                return DESCEND
            if isinstance(node, Tensor):
                return chosen.rows(node)
            return node[chosen.numbers] if isinstance(node, np.ndarray) else type(node)(node[k] for k in chosen.numbers)

        return self._with([map_tree(cut, value, keeps=True) for value in self.args],
                          {name: map_tree(cut, value, keeps=True) for name, value in self.kwargs.items()})

    def per_sample(self) -> FrozenSet[Path]:
        """Return where there is something that has as many rows or items as there are samples."""
        places, size, found = self._places(), self.size, set()

        def note(node: Any) -> Any:
            if not _counts(node, size):
                return DESCEND
            found.add(places[id(node)])
            return node

        for value in (*self.args, *self.kwargs.values()):
            map_tree(note, value)
        return frozenset(found)

    def _places(self) -> Dict[int, Path]:
        """Return by ``id`` where each node is; items of a list share one place."""
        found: Dict[int, Path] = {}
        waiting: List[Tuple[Any, Path]] = [({**dict(enumerate(self.args)), **self.kwargs}, ())]
        while waiting:
            node, path = waiting.pop()
            if id(node) not in found:
                found[id(node)] = path
                keyed = not isinstance(node, list)
                waiting += [(child, (*path, key if keyed else '*')) for key, child in children_of(node) or ()]
        return found


def _counts(node: Any, size: int) -> bool:
    """Whether a node of a batch has a row or an item for each sample."""
    if isinstance(node, (Tensor, np.ndarray)):
        return node.ndim > 0 and len(node) == size
    return type(node) in (list, tuple) and len(node) == size
