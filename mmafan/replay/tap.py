"""What a clean pass leaves at a tap, and of what ran before it."""
from __future__ import annotations

from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .attributes import Left
from .batch import Chosen, is_feature, select_samples
from .rng import RandomState
from .tree import map_tensors, tensors_of

SIDES = ('output', 'input')


class Record(NamedTuple):
    """A call that finished in the clean pass: of a module, or of a method of any object.

    Attributes:
        owner: The module or object.
        name: Name of the method, ``'forward'`` for a module.
        output: What it returns when it is replayed, detached.
        copied: Whether ``output`` is a copy, because operations in place change what the module returned.
        watched: The tensors a module returned, each with its version at that moment.
        live: The tensors a method returned, as long as the clean graph is of interest.
        random_state: Random streams after a method, where the next draws depend on it.
        left: What a module left in attributes.
    """
    owner: Any
    name: str
    output: Any
    copied: bool = False
    watched: List[Tuple[Tensor, int]] = []
    live: List[Tensor] = []
    random_state: Optional[RandomState] = None
    left: Sequence[Left] = ()

    @property
    def changed(self) -> bool:
        """Whether an operation in place has changed what the module returned."""
        return any(tensor._version != version for tensor, version in self.watched)

    def allow(self, output: Any) -> None:
        """Accept the one change that a following module, which replays too, made in place: ``ReLU(inplace=True)``."""
        if not self.watched:
            return
        made = {(t.data_ptr(), t._version) for t in tensors_of(output)}
        for index, (tensor, version) in enumerate(self.watched):
            if (tensor.data_ptr(), version + 1) in made:
                self.watched[index] = (tensor, version + 1)


Records = List[Record]


def autocasts() -> List[Tuple[str, torch.dtype]]:
    """List the devices under autocast, each with its type."""
    try:
        return [(d, torch.get_autocast_dtype(d)) for d in ('cpu', 'cuda') if torch.is_autocast_enabled(d)]
    except TypeError:  # torch < 2.4
        found = [('cpu', torch.get_autocast_cpu_dtype())] if torch.is_autocast_cpu_enabled() else []
        return found + ([('cuda', torch.get_autocast_gpu_dtype())] if torch.is_autocast_enabled() else [])


class TapCapture:
    """What the clean pass left at one tap.

    Attributes:
        outputs: Output of every call of the tap's module, detached; usually one call with one tensor ``(N, C, ...)``.
        live: The tensors to perturb, still part of the clean graph (for ``autograd.grad``).
        gradients: ``dL/df`` for each of ``live``, filled in by the clean backward.
        prefix: The modules and methods that had finished, outermost only, in order of calls.
        left: What its module left in attributes, at each call.
        random_states: Random streams as they were at each call.
        autocast: Whether the tap was reached under autocast.
        perturbed: Whether each tensor of the outputs, in order, is one of the features.
        changed: Whether an operation in place has changed a feature, or the copy of it that the suffix consumes, in
            the clean forward: what shares the memory of the feature was not changed with the copy, nor was the copy.
    """

    def __init__(self) -> None:
        self.outputs: List[Any] = []
        self.live: List[Tensor] = []
        self.gradients: List[Optional[Tensor]] = []
        self.prefix: Records = []
        self.perturbed: List[bool] = []
        self.left: List[List[Left]] = []
        self.random_states: List[RandomState] = []
        self.autocast = False
        self.changed = False
        self._watched: List[Tuple[Tensor, int]] = []

    @property
    def features(self) -> List[Tensor]:
        """The clean features, detached, in the order of :attr:`live`."""
        tensors = [t for output in self.outputs for t in tensors_of(output)]
        return [t for t, perturbed in zip(tensors, self.perturbed) if perturbed]

    def reach(self, prefix: Records) -> None:
        """Note what had finished when the tap was reached for the first time."""
        self.prefix, self.autocast = prefix, bool(autocasts())

    def take(self, output: Any) -> Any:
        """Keep an output and return the copy that the suffix consumes.

        The copy keeps later in-place operations (``ReLU(inplace=True)``) away from the recorded feature.
        """
        self.random_states.append(RandomState())
        self.outputs.append(map_tensors(Tensor.detach, output))
        return map_tensors(self._track, output, keeps=True)

    def _track(self, tensor: Tensor) -> Tensor:
        """A feature is floating and has a gradient; everything else (labels, frozen levels, boxes) is a constant."""
        perturbed = is_feature(tensor) and tensor.requires_grad
        self.perturbed.append(perturbed)
        if not perturbed:
            return tensor
        index, gradients = len(self.live), self.gradients
        tensor = tensor.view_as(tensor)  # who else has the tensor (that of an identity) is no part of the suffix
        self.live.append(tensor)
        gradients.append(None)

        def keep(gradient: Optional[Tensor]) -> None:
            # The hook must not know the capture, which holds the tensor: the collector sees no circle through autograd.
            gradients[index] = None if gradient is None else gradient.detach()

        tensor.register_hook(keep)
        copy = tensor.clone()
        self._watched += [(tensor, tensor._version), (copy, copy._version)]
        return copy

    def finish(self) -> None:
        """The clean forward is over."""
        self.changed = any(tensor._version != version for tensor, version in self._watched)
        self._watched = []

    @property
    def idle(self) -> Optional[str]:
        """Say in a word or two why there is nothing to perturb; None where there is."""
        if not self.outputs:
            return 'not reached'
        return 'no gradient' if not any(self.perturbed) else None if any(map(len, self.features)) else 'no rows'

    def problem(self) -> Optional[str]:
        """Say after the clean forward why the tap cannot work; None where it can."""
        tensors = [t for output in self.outputs for t in tensors_of(output)]
        if not self.outputs:
            return 'never ran in the forward pass of the loss'
        if not tensors:
            kinds = ', '.join(sorted({type(output).__name__ for output in self.outputs}))
            return f'returns {kinds}, which holds no tensor'
        if any(t.layout is not torch.strided for t in tensors) and not any(map(is_feature, tensors)):
            return 'returns a sparse tensor, which a perturbation would fill'
        if not any(map(is_feature, tensors)):
            return 'returns no floating tensor with a dimension of samples'
        if not self.live:
            return ('returns a feature without gradient (frozen parameters before it, a no_grad block, or reentrant '
                    'activation checkpointing)')
        return None

    def rebuild(self, features: Sequence[Tensor], chosen: Optional[Chosen]) -> List[Any]:
        """Put perturbed tensors in the places of the clean ones.

        Args:
            features: One tensor for each of :attr:`features`.
            chosen: The samples they stand for, if not all.
        """
        replacements, flags = iter(features), iter(self.perturbed)

        def replace(tensor: Tensor) -> Tensor:
            return next(replacements) if next(flags) else select_samples(tensor, chosen)

        return [map_tensors(replace, output) for output in self.outputs]

    def keep_rows(self, chosen: Optional[Chosen]) -> None:
        """Let go of the features, which others replace, and of the rows before the tap that belong to other samples.

        What an adversarial pass replays afterwards is the same, with memory for the chosen samples alone.

        Args:
            chosen: The samples whose rows are kept; None: all.
        """
        flags = iter(self.perturbed)

        def keep(tensor: Tensor) -> Tensor:
            return tensor.new_empty(0) if next(flags) else select_samples(tensor, chosen)

        self.outputs = [map_tensors(keep, output) for output in self.outputs]
        self.gradients = []
        self.prefix = [record if record.name != 'forward' else
                       record._replace(output=select_samples(record.output, chosen), watched=[])
                       for record in self.prefix]

    def release_graph(self) -> None:
        """Forget the clean graph."""
        self.live = []
