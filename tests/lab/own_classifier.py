"""A classifier of a user's own, as a module that a config imports."""
from __future__ import annotations

from mmpretrain.models import ImageClassifier

from mmafan import afan_model


@afan_model
class OwnClassifier(ImageClassifier):
    """Nothing new."""
