"""A-FAN for mmseg's segmentors: encoder-decoders, cascades, query-based ones."""
from __future__ import annotations

from typing import Any, List, Sequence

from torch import nn

from ..compat import leave_ignored_labels_unweighted
from ..replay import WatchedCall
from .codebase import Codebase

leave_ignored_labels_unweighted()


class Segmentation(Codebase):
    """Stock mmseg segmentors.

    The losses of each head are computed outside of modules: those that come before a tap (the first decoder of a
    cascade), and those that do not depend on it (auxiliary heads, for a tap in the decoder), do not run again.
    """

    def watched_calls(self, model: Any) -> Sequence[WatchedCall]:
        """The losses of the heads."""
        heads: List[Any] = []
        for name in ('decode_head', 'auxiliary_head'):
            head = getattr(model, name, None)
            heads += list(head) if isinstance(head, nn.ModuleList) else [head]
        return [WatchedCall(head, 'loss') for head in heads if hasattr(head, 'loss')]


CODEBASE = Segmentation()
