"""Moment exchange, a peer of A-FAN that swaps the statistics of features between images."""
from __future__ import annotations

from typing import Any, Optional, Tuple

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor

from ..functional import reinject_statistics
from ..registry import HOOKS
from ..validation import check_number, fail, suggest


class _Exchange:
    """A batch augmentation of mmpretrain: mixes the labels, and notes whose statistics each image gets."""

    def __init__(self, probability: float, weight: float, before: Any) -> None:
        self.probability = probability
        self.weight = weight
        self.before = before
        self.order: Optional[Tensor] = None

    def __call__(self, inputs: Tensor, scores: Tensor) -> Tuple[Tensor, Tensor]:
        if self.before is not None:
            inputs, scores = self.before(inputs, scores)
        scores, self.order = scores.float(), None
        if np.random.rand() < self.probability:
            self.order = torch.randperm(len(inputs))
            scores = self.weight * scores + (1 - self.weight) * scores[self.order.to(scores.device)]
        return inputs, scores


@HOOKS.register_module()
class MomentExchangeHook(Hook):
    """Train an mmpretrain classifier with moment exchange (MoEx), to compare A-FAN with, or beside it.

    With some probability the features of a batch, at the output of one module, are given the mean and the standard
    deviation over the channels, at each position, of another image of the batch, and the labels are mixed:
    ``weight * y + (1 - weight) * y_other``. Li et al., "On Feature Normalization and Data Augmentation" (CVPR 2021).

    Args:
        module: Dotted name of the module whose output is changed; the paper's place in a CIFAR ResNet is the first
            convolution.
        probability: Share of the batches that are changed.
        weight: Weight of an image's own label.

    Raises:
        ValueError: If an argument has a wrong value, or, before training, if there is no such module or the model's
            data preprocessor does not mix labels (mmpretrain's ``ClsDataPreprocessor`` with ``num_classes`` does).
    """

    def __init__(self, module: str = 'backbone.conv1', probability: float = 0.5, weight: float = 0.9) -> None:
        for name, value in (('probability', probability), ('weight', weight)):
            check_number(f'MomentExchangeHook.{name}', value, 'a number in [0, 1]', 0)
            if value > 1:
                fail(f'MomentExchangeHook.{name}', value, 'a number in [0, 1]')
        self.module = module
        self.probability = probability
        self.weight = weight

    def before_train(self, runner: Runner) -> None:
        """Put the exchange into the model."""
        model: Any = runner.model.module if is_model_wrapper(runner.model) else runner.model
        modules = dict(model.named_modules())
        if self.module not in modules:
            raise ValueError(f'MomentExchangeHook.module must be a module of the model, got {self.module!r}: '
                             f'{suggest(self.module, list(modules))}')
        preprocessor = model.data_preprocessor
        if not hasattr(preprocessor, 'batch_augments') or preprocessor.num_classes is None:
            raise ValueError('MomentExchangeHook mixes labels, which needs a ClsDataPreprocessor with num_classes, got '
                             f'{type(preprocessor).__name__}')
        target = modules[self.module]
        if not target.training:
            raise ValueError(f'MomentExchangeHook.module must be in training mode, {self.module!r} is frozen')
        exchange = _Exchange(self.probability, self.weight, preprocessor.batch_augments)
        preprocessor.batch_augments, preprocessor.to_onehot = exchange, True
        plain = target.forward

        def forward(*args: Any, **kwargs: Any) -> Tensor:
            feature = plain(*args, **kwargs)
            if exchange.order is None or not target.training:
                return feature
            if len(feature) != len(exchange.order):
                raise ValueError(f'MomentExchangeHook.module must run on the whole batch, {self.module!r} got '
                                 f'{len(feature)} of {len(exchange.order)} samples; afan.taps.<name>.fraction must be '
                                 '1 beside it')
            half = feature.dtype in (torch.float16, torch.bfloat16)
            wide = feature.float() if half else feature  # the moments of half precision are rough
            return reinject_statistics(wide, wide[exchange.order.to(feature.device)]).to(feature.dtype)

        target.forward = forward
