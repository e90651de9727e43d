"""Where A-FAN enters a stock model: its method ``loss``, or its forward."""
from __future__ import annotations

import functools
from typing import Any

from mmengine.model import is_model_wrapper

from .losses import Losses


class LossEntry:
    """For stock models with a method ``loss``: the single-graph loss is there, also for callers of ``model.loss``."""

    def loss(self, *args: Any, **kwargs: Any) -> Losses:
        """Losses of the stock model, with adversarial terms while training; arguments are the stock model's."""
        return self._loss_with_afan(super().loss, args, kwargs)  # type: ignore[attr-defined, misc]


class ForwardEntry:
    """For models that compute their losses in ``forward(..., mode='loss')``."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Forward of the stock model; ``mode='loss'`` has adversarial terms while training."""
        stock = super().forward  # type: ignore[misc]
        mode = kwargs.pop('mode', args[2] if len(args) > 2 else 'tensor')
        if mode != 'loss':
            return stock(*args[:2], mode=mode, **kwargs)
        return self._loss_with_afan(functools.partial(stock, mode='loss'), args[:2], kwargs)  # type: ignore


def unwrap(model: Any) -> Any:
    """Return the model inside distributed wrappers."""
    while is_model_wrapper(model):
        model = model.module
    return model
