"""The thin ResNet for 32 x 32 images (6n + 2 layers), which A-FAN's authors call ResNet-56s."""
from __future__ import annotations

from typing import Any, Optional, Sequence

import torch.nn.functional as F
from mmpretrain.models.backbones.resnet import BasicBlock, ResLayer
from mmpretrain.models.backbones.resnet_cifar import ResNet_CIFAR
from torch import Tensor, nn

from ...registry import MODELS


class SubsampledShortcut(nn.Module):
    """Shortcut "option A": every ``stride``-th position, and zero channels around the input's own.

    Args:
        in_channels: Number of input channels C.
        out_channels: Number of output channels D, at least C and C + an even number.
        stride: Step of the subsampling.

    Raises:
        ValueError: If the new channels cannot be split evenly.

    Example:
        >>> import torch
        >>> SubsampledShortcut(1, 3)(torch.arange(16.).reshape(1, 1, 4, 4))[0, 1].tolist()
        [[0.0, 2.0], [8.0, 10.0]]
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 2) -> None:
        super().__init__()
        added = out_channels - in_channels
        if added < 0 or added % 2:
            raise ValueError(f'out_channels must be in_channels={in_channels} plus an even number, '
                             f'got {out_channels}')
        self.side = added // 2
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, D, ceil(H / stride), ceil(W / stride))``."""
        return F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, self.side, self.side))

    def extra_repr(self) -> str:
        """Say what the layer does."""
        return f'stride={self.stride}, zero_channels={2 * self.side}'


@MODELS.register_module()
class CIFARResNet(ResNet_CIFAR):
    """ResNet of 6n + 2 layers for CIFAR (He et al. 2015, "Deep Residual Learning", section 4.2).

    A 3 x 3 convolution with 16 channels, then three stages of n basic blocks with 16, 32 and 64
    channels on maps of 32, 16 and 8 pixels. Shortcuts have no parameters (option A). Modules are
    named as in ``ResNet_CIFAR``: ``conv1``, ``bn1``, ``relu``, ``layer1`` to ``layer3``. With the
    linear head of 10 classes it has 0.27, 0.46, 0.66, 0.85 and 1.7 million parameters for depths
    20, 32, 44, 56 and 110.

    Args:
        depth: 20, 32, 44, 56 or 110.
        stem_channels: Channels of the first convolution.
        base_channels: Channels of the first stage.
        num_stages: Number of stages.
        strides: Stride of each stage's first block.
        dilations: Dilation of each stage.
        out_indices: Stages whose outputs are returned.
        zero_init_residual: Whether the last norm of a block starts at zero; not so in the paper.
        init_cfg: Initialisation; None: normal weights of variance ``2 / fan_in``, as in the paper
            and in A-FAN's authors' code.
        **kwargs: Further arguments of mmpretrain's ``ResNet``.

    Raises:
        ValueError: If there is no network of this depth.

    Example:
        >>> import torch
        >>> CIFARResNet(depth=20)(torch.zeros(1, 3, 32, 32))[0].shape
        torch.Size([1, 64, 8, 8])
    """
    arch_settings = {depth: (BasicBlock, ((depth - 2) // 6, ) * 3)
                     for depth in (20, 32, 44, 56, 110)}

    def __init__(self,
                 depth: int,
                 stem_channels: int = 16,
                 base_channels: int = 16,
                 num_stages: int = 3,
                 strides: Sequence[int] = (1, 2, 2),
                 dilations: Sequence[int] = (1, 1, 1),
                 out_indices: Sequence[int] = (2, ),
                 zero_init_residual: bool = False,
                 init_cfg: Optional[Any] = None,
                 **kwargs: Any) -> None:
        if depth not in self.arch_settings:
            raise ValueError(f'CIFARResNet.depth must be one of {tuple(self.arch_settings)} '
                             f'(6n + 2), got {depth!r}')
        if init_cfg is None:
            init_cfg = [dict(type='Kaiming', layer='Conv2d', mode='fan_in'),
                        dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm'])]
        super().__init__(
            depth,
            stem_channels=stem_channels,
            base_channels=base_channels,
            num_stages=num_stages,
            strides=strides,
            dilations=dilations,
            out_indices=out_indices,
            zero_init_residual=zero_init_residual,
            init_cfg=init_cfg,
            **kwargs)

    def make_res_layer(self, **kwargs: Any) -> nn.Module:
        """Build one stage, with the parameter-free shortcut in place of the projection."""
        layer = ResLayer(**kwargs)
        first = layer[0]
        if first.downsample is not None:
            first.downsample = SubsampledShortcut(kwargs['in_channels'], kwargs['out_channels'],
                                                  kwargs['stride'])
        return layer
