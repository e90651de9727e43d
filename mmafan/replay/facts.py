"""What is known of a model beforehand, and what its first step has shown, by which later steps compute less."""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, FrozenSet, Mapping, NamedTuple, Optional, Tuple

from .forward_state import Place

Names = FrozenSet[str]


class WatchedCall(NamedTuple):
    """A method whose results an adversarial pass takes from the clean one.

    Hooks see modules only. Where a codebase works outside of them (losses and proposals of an RPN, sampling of RoIs),
    the methods are named, and they are recorded and replayed as modules are.

    Attributes:
        owner: The object it is called on; a module or anything with attributes of its own.
        name: Name of the method.
        paired: Whether every adversarial pass gets the clean results, also where the call comes after the tap; for
            what has no gradient and must not differ between the passes, such as proposals and sampled RoIs. Other
            calls replay where they finished before the tap, or where the losses of the tap do not depend on them.
        per_sample: Whether it is called once for every sample, in their order.
    """
    owner: Any
    name: str
    paired: bool = False
    per_sample: bool = False

    @property
    def key(self) -> Any:
        """What identifies the method."""
        return id(self.owner), self.name


@dataclass(frozen=True)
class Facts:
    """What is known about a model's clean and adversarial passes; None: not known yet.

    Attributes:
        calls: The methods that are recorded and replayed as modules are.
        hooked: Names of the modules to record: those that finished before a tap, outermost only, and those that did
            not run, which may do so in a later step.
        changed_in_place: Names of the modules before a tap whose outputs operations in place change later, so that
            copies are kept.
        changed_state: What a forward changes in the model beside norms; adversarial passes find it as the clean one
            did, and leave it alone.
        attributes: Where modules leave something in an attribute; see :mod:`.attributes`.
        idle_calls: By tap, the numbers of the calls that its losses do not depend on.
        other_losses: By tap, names of the losses that do not depend on it.
        own_losses: By tap, names of those that do; what is in neither has not been there with a gradient.
        before: By tap, names of the parameters that are used before it alone: constants of its passes.
        held: By tap, those of them that a pass comes to where the prefix replays.
        until: By tap, names of the parameters that are used before it and not before it alone: constants of its passes
            until they come to it.
        num_calls: By tap, how often its module ran when this was found.
        proven: The taps that have been seen to work.
    """
    calls: Tuple[WatchedCall, ...] = ()
    hooked: Optional[Names] = None
    changed_in_place: Optional[Names] = None
    changed_state: Optional[Tuple[Place, ...]] = None
    attributes: Optional[FrozenSet[Tuple[str, str]]] = None
    idle_calls: Optional[Mapping[str, FrozenSet[int]]] = None
    other_losses: Mapping[str, Names] = field(default_factory=dict)
    own_losses: Mapping[str, Names] = field(default_factory=dict)
    before: Mapping[str, Names] = field(default_factory=dict)
    held: Mapping[str, Names] = field(default_factory=dict)
    until: Mapping[str, Names] = field(default_factory=dict)
    num_calls: Mapping[str, int] = field(default_factory=dict)
    proven: Names = frozenset()

    def joined(self, other: 'Facts') -> 'Facts':
        """Return what is known where another step has shown other taps, or other ways through the model."""
        merged: Any = {name: {**(getattr(self, name) or {}), **(getattr(other, name) or {})} for name in
                       ('idle_calls', 'other_losses', 'own_losses', 'before', 'until', 'num_calls')}
        return replace(
            other, hooked=(self.hooked or frozenset()) | (other.hooked or frozenset()),
            changed_in_place=(self.changed_in_place or frozenset()) | (other.changed_in_place or frozenset()),
            changed_state=tuple({*(self.changed_state or ()), *(other.changed_state or ())}),
            attributes=(self.attributes or frozenset()) | (other.attributes or frozenset()),
            proven=self.proven | other.proven,
            held={**{name: held for name, held in self.held.items() if name not in other.before}, **other.held},
            **merged)
