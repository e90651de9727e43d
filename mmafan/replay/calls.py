"""Methods whose results an adversarial pass takes from the clean one.

Hooks see modules only. Where a codebase works outside of them (losses and proposals of an RPN, sampling of RoIs), the
methods are named, and they are recorded and replayed as modules are.
"""
from __future__ import annotations

from typing import Any, NamedTuple


class WatchedCall(NamedTuple):
    """A method to record.

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
