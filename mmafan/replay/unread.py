"""Which recorded outputs an adversarial pass hands on without ever reading them.

What the stem of a backbone returned goes into modules that replay too, so that no operation reads it. The clean pass
need not keep it: a stand-in without storage takes its place. Where something reads it in a later step all the same, it
raises, and the pass is repeated without stand-ins.
"""
from __future__ import annotations

import functools
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .rng import RandomState
from .tree import tensors_of


class StandIn(Tensor):
    """A tensor that can be handed on but not read, in the place of one that is not kept.

    Args:
        module: Name of the module that returned it, for the message.

    Attributes:
        reads: Names of what has been read so far; TorchScript keeps the exception to itself.

    Raises:
        RuntimeError: From every torch function and attribute, and from every operation, TorchScript's among them.
    """
    module: str
    reads: List[str] = []

    @staticmethod
    def __new__(cls, module: str) -> 'StandIn':
        made = Tensor._make_wrapper_subclass(cls, (0, ))
        made.module = module
        return made

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = [t for t in tensors_of([args, kwargs or {}]) if type(t) is StandIn]
        name = vars(found[0])['module'] if found else 'a module'
        cls.reads.append(name)
        raise RuntimeError(f'an adversarial pass reads what {name!r} returned, which it did not in the first step, so '
                           'that it was not kept')

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return cls.__torch_function__(function, types, args, kwargs)


@functools.lru_cache(maxsize=None)
def stand_in(module: str) -> StandIn:
    """Return the stand-in for what a module returns; it has no state of its own."""
    return StandIn(module)


class _Operations(TorchDispatchMode):
    """Shows the arguments of every operation, also of those that no Python code calls."""

    def __init__(self, note: Callable[[Any], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_dispatch__(self, function: Callable[..., Any], types: Any, args: Tuple[Any, ...] = (),
                           kwargs: Optional[Dict[str, Any]] = None) -> Any:
        self._note([args, kwargs or {}])
        return function(*args, **(kwargs or {}))


class Watch(TorchFunctionMode):
    """Context that notes which of the outputs handed out to an adversarial pass are read in it.

    An output is read where a torch function, attribute or operation takes it, or, as a positional argument, a module
    without children that runs. Where code between the replayed modules draws random numbers, what it reads may differ
    from step to step: nothing can be said then.

    Attributes:
        read: The owners whose outputs were read, by ``id``.
        draws: Whether code between the replayed modules drew random numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read: Set[int] = set()
        self.draws = False
        self._replays_left: Dict[int, int] = {}
        self._owners: Dict[int, int] = {}
        self._handed_out: List[Tensor] = []  # alive, so that no other tensor gets the same id
        self._expected: Optional[RandomState] = None
        self._in_prefix = True
        self._handle: Any = None
        self._operations = _Operations(self._note)

    def __enter__(self) -> 'Watch':
        self._handle = register_module_forward_pre_hook(self._enter_module)
        super().__enter__()
        self._operations.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._operations.__exit__(*error)
        super().__exit__(*error)
        self._handle.remove()
        self._handed_out.clear()
        self._owners.clear()

    def replays(self, module: nn.Module, times: int) -> None:
        """Note that the next calls of a module replay: their arguments are not read."""
        self._replays_left[id(module)] = times

    def hand_out(self, owner: Any, output: Any) -> Any:
        """Note what is handed out for an owner; return it."""
        for tensor in tensors_of(output):
            self._owners[id(tensor)] = id(owner)
            self._handed_out.append(tensor)
        return output

    def draws_begin_at(self, state: Optional[RandomState]) -> None:
        """Note where the random streams are put to before code of the prefix goes on; None: where the suffix begins."""
        if self._in_prefix and self._expected is not None:
            self.draws |= not self._expected.is_current()
        self._expected = state
        self._in_prefix &= state is not None

    def _note(self, values: Any) -> None:
        self.read.update(self._owners[id(t)] for t in tensors_of(values) if id(t) in self._owners)

    def _enter_module(self, module: nn.Module, args: Tuple[Any, ...]) -> None:
        left = self._replays_left.get(id(module), 0)
        if left:
            self._replays_left[id(module)] = left - 1
        elif next(module.children(), None) is None:
            self._note(args)

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Tuple[Any, ...] = (),
                           kwargs: Optional[Dict[str, Any]] = None) -> Any:
        self._note([args, kwargs or {}])
        return function(*args, **(kwargs or {}))
