"""Model classes ``AFAN<Stock>``, made on demand: ``from mmafan.models import AFANImageClassifier`` works too."""
from __future__ import annotations

from typing import Any

from ..naming import stock_name
from ..registry import MODELS
from .model import AFANModelMixin, afan_model

__all__ = ['AFANModelMixin', 'afan_model']


def __getattr__(name: str) -> Any:
    # Pickle and mmengine's checkpoint meta data find classes as attributes of their module.
    if stock_name(name):
        try:
            return MODELS.get(name)
        except KeyError as error:
            raise AttributeError(str(error)) from None
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
