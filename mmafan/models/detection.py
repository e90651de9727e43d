"""A-FAN for mmdet's detectors: two-stage, one-stage, query-based, instance and panoptic."""
from __future__ import annotations

from typing import Any, List, Sequence

from torch import nn

from ..passes.calls import WatchedCall
from .mixin import AFANModelMixin

# What a two-stage detector does outside of modules: name of its part, and of the part's method.
_WHOLE_CALLS = (('rpn_head', 'loss_and_predict'), ('roi_head', 'bbox_loss'), ('roi_head', 'mask_loss'),
                ('roi_head', 'semantic_loss'), ('roi_head', 'global_context_loss'), ('semantic_head', 'loss'))


class AFANDetectorMixin(AFANModelMixin):
    """Behaviour of ``AFAN<Stock>`` for every stock mmdet detector.

    In a two-stage detector all passes of a step see the proposals of the clean one and its sampled RoIs, so that clean
    and adversarial losses are paired. At a tap after the RPN its losses are not computed again, and branches that the
    tap's ``losses`` leave out (the mask head, for a tap in the box head) do not run.
    """

    def _watched_calls(self) -> Sequence[WatchedCall]:
        """Return what is replayed beside modules."""
        rpn, roi = getattr(self, 'rpn_head', None), getattr(self, 'roi_head', None)
        calls: List[WatchedCall] = []
        if isinstance(rpn, nn.Module) and isinstance(roi, nn.Module):
            calls += [WatchedCall(m, 'predict_by_feat', paired=True) for m in rpn.modules()
                      if hasattr(m, 'predict_by_feat')]
        for name, method in (('bbox_assigner', 'assign'), ('bbox_sampler', 'sample')):
            part = getattr(roi, name, None)
            parts: Sequence[Any] = part if isinstance(part, (list, tuple)) else [part]
            calls += [WatchedCall(p, method, paired=True, per_sample=True) for p in parts if hasattr(p, method)]
        for name, method in _WHOLE_CALLS:
            owner = getattr(self, name, None)
            if hasattr(owner, method):
                calls.append(WatchedCall(owner, method))
        return calls


MIXIN = AFANDetectorMixin
