"""Which pass is running, the state norm layers react to in place of ``self.training``; and what is replaced in it."""
from __future__ import annotations

import enum
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

_ABSENT = object()


class Unjoinable(Exception):
    """A module cannot run once for several passes."""


class PassKind(enum.Enum):
    """The kind of a forward pass.

    ``CLEAN`` is the ordinary pass, ``ATTACK`` a further PGD step that only wants the gradient at the tap (and leaves
    no trace), ``ADVERSARIAL`` a pass whose loss trains the suffix, ``CHECK`` a clean pass again that stores nothing,
    ``JOINED`` several of these at once, in a module that runs for all of them.
    """
    CLEAN = 'clean'
    ATTACK = 'attack'
    ADVERSARIAL = 'adversarial'
    CHECK = 'check'
    JOINED = 'joined'


Groups = Tuple[Tuple[int, PassKind], ...]


@dataclass(frozen=True)
class PassState:
    """The running pass and the batch norm policy it asks for (see :class:`mmafan.config.AFANConfig`).

    Attributes:
        kind: The pass.
        batch_norm: The policy.
        groups: Of a joined pass, how many rows of a module's input belong to which pass, in their order.
        before_tap: Whether perturbed features are still to be given out.
    """
    kind: PassKind = PassKind.CLEAN
    batch_norm: str = 'shared'
    groups: Groups = ()
    before_tap: bool = False


# A plain module-level stack, not a thread-local: recomputation under activation checkpointing happens in autograd's
# own threads and has to see the state of the pass whose backward is running (two-phase runs it inside the state).
_STACK: List[PassState] = [PassState()]


def current_pass() -> PassState:
    """Return the state of the running pass; outside :func:`running_pass` it is a clean one.

    Example:
        >>> current_pass().kind
        <PassKind.CLEAN: 'clean'>
    """
    return _STACK[-1]


@contextmanager
def running_pass(kind: PassKind, batch_norm: str = 'shared', groups: Groups = (),
                 before_tap: bool = False) -> Iterator[None]:
    """Mark everything run inside as a pass of ``kind``.

    Args:
        kind: The pass.
        batch_norm: One of ``mmafan.config.BATCH_NORM_POLICIES``.
        groups: As of :class:`PassState`.
        before_tap: As there.

    Example:
        >>> with running_pass(PassKind.ADVERSARIAL, 'frozen'):
        ...     current_pass().batch_norm
        'frozen'
    """
    _STACK.append(PassState(kind, batch_norm, groups, before_tap))
    try:
        yield
    finally:
        _STACK.pop()


@contextmanager
def passes_of(stack: List[PassState]) -> Iterator[None]:
    """Let what runs inside find the passes of another forward, which is not finished, in place of this one's.

    Args:
        stack: The passes that other forward has begun; those it has begun at the end are put into it.
    """
    own = _STACK[:]
    _STACK[:] = stack or [PassState()]
    try:
        yield
    finally:
        stack[:] = _STACK
        _STACK[:] = own


class Patches:
    """Methods replaced on objects themselves, and parameters held constant; and all put back."""

    def __init__(self) -> None:
        self._before: List[Any] = []
        self._held: List[Any] = []

    def set(self, owner: Any, name: str, function: Any) -> None:
        """Replace ``owner.name``."""
        own: Dict[str, Any] = vars(owner)
        self._before.append((own, name, own.get(name, _ABSENT)))
        own[name] = function

    def hold(self, parameters: Sequence[Any]) -> None:
        """Let parameters be constants."""
        for parameter in parameters:
            parameter.requires_grad_(False)
        self._held += parameters

    def undo(self) -> None:
        """Put everything back, last first."""
        while self._held:
            self._held.pop().requires_grad_()
        while self._before:
            own, name, value = self._before.pop()
            if value is _ABSENT:
                del own[name]
            else:
                own[name] = value


@contextmanager
def replaced(owner: Any, functions: Mapping[str, Any]) -> Iterator[None]:
    """Replace methods of an object, by name, for what runs inside."""
    patches = Patches()
    for name, function in functions.items():
        patches.set(owner, name, function)
    try:
        yield
    finally:
        patches.undo()
