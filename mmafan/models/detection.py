"""A-FAN for mmdet's detectors: two-stage, one-stage, query-based, instance and panoptic."""
from __future__ import annotations

from typing import Any, List, Sequence

from torch import nn

from ..replay import Batch, WatchedCall
from .codebase import Codebase

# What a two-stage detector does outside of modules: name of its part, and of the part's method.
_WHOLE_CALLS = (('rpn_head', 'loss_and_predict'), ('roi_head', 'bbox_loss'), ('roi_head', 'mask_loss'),
                ('roi_head', 'semantic_loss'), ('roi_head', 'global_context_loss'), ('semantic_head', 'loss'))


class Detection(Codebase):
    """Stock mmdet detectors.

    In a two-stage detector all passes of a step see the proposals of the clean one and its sampled RoIs, so that clean
    and adversarial losses are paired. At a tap after the RPN its losses are not computed again, and branches that the
    tap's ``losses`` leave out (the mask head, for a tap in the box head) do not run.
    """

    def watched_calls(self, model: nn.Module) -> Sequence[WatchedCall]:
        """Methods of each detector there is (a student and its teacher)."""
        calls: List[WatchedCall] = []
        for module in model.modules():
            if isinstance(getattr(module, 'roi_head', None), nn.Module):
                calls += _calls_of(module)
        return calls

    def lacks_targets(self, batch: Batch) -> bool:
        """Whether an image has no boxes."""
        samples = [v for value in (*batch.args, *batch.kwargs.values()) if isinstance(value, (list, tuple))
                   for v in value]
        return any(len(s.gt_instances) == 0 for s in samples if 'gt_instances' in getattr(s, 'keys', list)())


def _calls_of(detector: Any) -> List[WatchedCall]:
    rpn, roi = getattr(detector, 'rpn_head', None), detector.roi_head
    calls: List[WatchedCall] = []
    if isinstance(rpn, nn.Module):
        calls += [WatchedCall(m, 'predict_by_feat', paired=True) for m in rpn.modules()
                  if hasattr(m, 'predict_by_feat')]
    for name, method in (('bbox_assigner', 'assign'), ('bbox_sampler', 'sample')):
        part = getattr(roi, name, None)
        parts: Sequence[Any] = part if isinstance(part, (list, tuple)) else [part]
        calls += [WatchedCall(p, method, paired=True, per_sample=True) for p in parts if hasattr(p, method)]
    for name, method in _WHOLE_CALLS:
        owner = getattr(detector, name, None)
        if hasattr(owner, method):
            calls.append(WatchedCall(owner, method))
    return calls


CODEBASE = Detection()
