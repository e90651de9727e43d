"""A-FAN for mmpretrain's classifiers, whatever their backbone, neck and head."""
from __future__ import annotations

from .mixin import AFANModelMixin


class AFANClassifierMixin(AFANModelMixin):
    """Behaviour of ``AFAN<Stock>`` for every stock mmpretrain classifier.

    Mixed labels (mixup, CutMix), label smoothing and multi-label heads need nothing of their own: they are part of the
    data samples or of the head's loss, which every pass evaluates as the clean one does.
    """


MIXIN = AFANClassifierMixin
