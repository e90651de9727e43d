"""What the first step of a model has shown; later steps record and compute less by it."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import FrozenSet, Mapping, Optional, Tuple

from .calls import WatchedCall
from .forward_state import Place

Names = FrozenSet[str]


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
        idle_calls: By tap, the numbers of the calls that its losses do not depend on.
        other_losses: By tap, names of the losses that do not depend on it.
    """
    calls: Tuple[WatchedCall, ...] = ()
    hooked: Optional[Names] = None
    changed_in_place: Optional[Names] = None
    changed_state: Optional[Tuple[Place, ...]] = None
    idle_calls: Optional[Mapping[str, FrozenSet[int]]] = None
    other_losses: Mapping[str, Names] = field(default_factory=dict)
