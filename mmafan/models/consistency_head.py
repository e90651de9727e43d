"""A classification head whose adversarial term is the divergence from the clean prediction."""
from __future__ import annotations

from typing import Any, Dict, Optional

import torch.nn.functional as F
from mmpretrain.models.heads import LinearClsHead
from torch import Tensor

from ..passes.state import PassKind, current_pass
from ..registry import MODELS


@MODELS.register_module()
class ConsistencyHead(LinearClsHead):
    """``LinearClsHead`` whose loss, in an adversarial pass, is KL(clean prediction || adversarial prediction).

    The clean prediction is a constant. Other arguments, keys and predictions are those of ``LinearClsHead``.
    """
    _clean: Optional[Tensor] = None

    def _get_loss(self, cls_score: Tensor, data_samples: Any, **kwargs: Any) -> Dict[str, Tensor]:
        if self._clean is None or current_pass().kind is not PassKind.ADVERSARIAL:
            self._clean = cls_score.detach().float()
            return super()._get_loss(cls_score, data_samples, **kwargs)
        target = F.softmax(self._clean, dim=1)
        return dict(loss=F.kl_div(F.log_softmax(cls_score.float(), dim=1), target, reduction='batchmean'))
