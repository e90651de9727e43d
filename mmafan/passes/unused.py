"""Which recorded outputs an adversarial pass hands on without ever reading them.

What the stem of a backbone returned goes into modules that replay too, so that no operation reads it. The clean pass
need not keep it: a stand-in without storage takes its place, on torch's ``meta`` device.
"""
from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Set, Tuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from .batch import map_tensors, tensors_of
from .rng import RandomState


def stand_in(output: Any) -> Any:
    """Return what a module returned, with tensors of the same shapes and dtypes but without values or storage.

    Example:
        >>> stand_in((torch.zeros(2, 3), 'x'))
        (tensor(..., device='meta', size=(2, 3)), 'x')
    """
    return map_tensors(lambda t: torch.empty_like(t, device='meta', requires_grad=False), output)


class Watch(TorchFunctionMode):
    """Context that notes which of the outputs handed out to an adversarial pass are read in it.

    An output is read by an operation outside of C++ code, or as an argument of a module that runs. Where code between
    the replayed modules draws random numbers, what it reads may differ from step to step: then all count as read.

    Attributes:
        read: The owners whose outputs were read, by ``id``.
        draws: Whether code between the replayed modules drew random numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read: Set[int] = set()
        self.draws = False
        self._replayed: Set[int] = set()
        self._owners: Dict[int, int] = {}
        self._handed_out: List[Tensor] = []  # alive, so that no other tensor gets the same id
        self._expected: Optional[RandomState] = None
        self._in_head = True
        self._handle: Any = None

    def __enter__(self) -> 'Watch':
        self._handle = register_module_forward_pre_hook(self._enter_module)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._handle.remove()
        self._handed_out.clear()
        self._owners.clear()

    def replays(self, owner: Any) -> None:
        """Note that an object replays: its arguments are not read."""
        self._replayed.add(id(owner))

    def hand_out(self, owner: Any, output: Any) -> Any:
        """Note what is handed out for an owner; return it."""
        for tensor in tensors_of(output):
            self._owners[id(tensor)] = id(owner)
            self._handed_out.append(tensor)
        return output

    def draws_begin_at(self, state: Optional[RandomState]) -> None:
        """Note where the random streams are put to before code of the head goes on; None: where the tail begins."""
        if self._in_head and self._expected is not None:
            self.draws |= not self._expected.is_current()
        self._expected = state
        self._in_head &= state is not None

    def _note(self, values: Any) -> None:
        self.read.update(self._owners[id(t)] for t in tensors_of(values) if id(t) in self._owners)

    def _enter_module(self, module: nn.Module, args: Tuple[Any, ...]) -> None:
        if id(module) not in self._replayed and not next(module.children(), None):
            self._note(args)

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Tuple[Any, ...] = (),
                           kwargs: Optional[Dict[str, Any]] = None) -> Any:
        self._note([args, kwargs or {}])
        return function(*args, **(kwargs or {}))
