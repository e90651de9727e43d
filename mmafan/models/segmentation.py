"""A-FAN for mmseg's segmentors: encoder-decoders, cascades, query-based ones."""
from __future__ import annotations

from typing import Any, List, Sequence

from torch import nn

from ..compat import leave_ignored_labels_unweighted
from ..passes.calls import WatchedCall
from .mixin import AFANModelMixin

leave_ignored_labels_unweighted()


class AFANSegmentorMixin(AFANModelMixin):
    """Behaviour of ``AFAN<Stock>`` for every stock mmseg segmentor.

    The losses of each head are computed outside of modules: those that come before a tap (the first decoder of a
    cascade), and those that do not depend on it (auxiliary heads, for a tap in the decoder), do not run again.
    """

    def _watched_calls(self) -> Sequence[WatchedCall]:
        """Return what is replayed beside modules."""
        heads: List[Any] = []
        for name in ('decode_head', 'auxiliary_head'):
            head = getattr(self, name, None)
            heads += list(head) if isinstance(head, nn.ModuleList) else [head]
        return [WatchedCall(head, 'loss') for head in heads if hasattr(head, 'loss')]


MIXIN = AFANSegmentorMixin
