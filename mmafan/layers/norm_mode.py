"""What a batch norm that trains does in each kind of pass, under each policy."""
from __future__ import annotations

from typing import Dict, NamedTuple, Tuple

from ..replay.state import PassKind


class NormMode(NamedTuple):
    """How a batch norm normalises, and whether it keeps what it sees.

    Attributes:
        frozen: With the clean running statistics, and not with those of the batch.
        auxiliary: With the auxiliary norm, where there is one.
        stores: Whether the statistics of the batch go into running statistics.
        alike: Whether the pass saves for its backward what a clean one does: it may be a clean one, recomputed.
    """
    frozen: bool = False
    auxiliary: bool = False
    stores: bool = False
    alike: bool = False


_ADVERSARIAL = dict(shared=NormMode(stores=True), batch=NormMode(), frozen=NormMode(frozen=True),
                    separate=NormMode(auxiliary=True, stores=True))
# Clean passes, and layers in ``eval()`` mode, are those of the stock layer.
MODES: Dict[Tuple[PassKind, str], NormMode] = {}
for _policy, _mode in _ADVERSARIAL.items():
    MODES[PassKind.ADVERSARIAL, _policy] = _mode
    MODES[PassKind.ATTACK, _policy] = _mode._replace(stores=False)
    MODES[PassKind.CHECK, _policy] = NormMode(alike=True)
