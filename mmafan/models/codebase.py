"""What A-FAN must know of a codebase, beside how its models are built."""
from __future__ import annotations

from typing import Any, Sequence

from ..replay import Batch, WatchedCall


class Codebase:
    """A codebase whose models need nothing of their own: mmpretrain's, and users' own.

    Mixed labels (mixup, CutMix), label smoothing and multi-label heads are part of the data samples or of the head's
    loss, which every pass evaluates as the clean one does.
    """

    def watched_calls(self, model: Any) -> Sequence[WatchedCall]:
        """Methods of the stock model that are recorded and replayed as modules are."""
        return ()

    def lacks_targets(self, batch: Batch) -> bool:
        """Whether losses may be missing or constant, because a sample has nothing to learn from."""
        return False
