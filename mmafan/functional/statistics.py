"""Adversarial feature normalisation: statistics of a feature, and their re-injection into another."""
from __future__ import annotations

import math
from typing import Optional, Tuple

import torch
from torch import Tensor

MOMENTS = ('channel', 'batch', 'instance', 'group')


def _channel_dim(feature: Tensor, channel_dim: Optional[int]) -> int:
    if channel_dim is None:  # (N, L, C) token sequences keep their channels last, all else second
        channel_dim = -1 if feature.dim() == 3 else 1
    if not 0 < abs(channel_dim) < feature.dim():
        raise ValueError(f'channel_dim must be a dimension of {tuple(feature.shape)} other than the samples, '
                         f'got {channel_dim!r}')
    return channel_dim % feature.dim()


def feature_moments(feature: Tensor, moments: str = 'channel', eps: float = 1e-5, num_groups: int = 32,
                    channel_dim: Optional[int] = None) -> Tuple[Tensor, Tensor]:
    """Compute mean and standard deviation ``sqrt(var + eps)`` of a feature.

    ==============  ======================================  =========  =====================================
    ``moments``     taken over                              variance   source
    ==============  ======================================  =========  =====================================
    ``'channel'``   the channels, at each position          unbiased   the authors' published code
    ``'batch'``     samples and positions, per channel      biased     the paper's abstract (batch norm)
    ``'instance'``  positions, per sample and channel       biased     instance norm
    ``'group'``     positions and a group's channels        biased     group norm
    ==============  ======================================  =========  =====================================

    Args:
        feature: ``(N, C)``, ``(N, C, ...)`` or ``(N, L, C)``, floating.
        moments: One of the names in the table.
        eps: Added to the variance inside the root.
        num_groups: Number of channel groups, for ``'group'`` only.
        channel_dim: Which dimension holds the channels; None means the last of three, else the second.

    Returns:
        Mean and standard deviation, both broadcasting over ``feature``.

    Raises:
        ValueError: If ``moments`` is unknown, or the feature has too few elements to have a standard deviation.

    Example:
        >>> import torch
        >>> mean, std = feature_moments(torch.tensor([[1., 3.]]), 'channel', eps=0.)
        >>> mean.item(), round(std.item(), 4)  # unbiased: sqrt(((1-2)^2 + (3-2)^2) / (2-1))
        (2.0, 1.4142)
    """
    if moments not in MOMENTS:
        raise ValueError(f'moments must be one of {MOMENTS}, got {moments!r}')
    if feature.dim() < 2:
        raise ValueError(f'feature must have at least two dimensions (N, C), got {tuple(feature.shape)}')
    channel = _channel_dim(feature, channel_dim)
    num_channels = feature.shape[channel]
    if moments == 'group':
        return _group_moments(feature, eps, num_groups, channel)
    dims = {
        'channel': (channel, ),
        'batch': tuple([d for d in range(feature.dim()) if d != channel]),
        'instance': tuple([d for d in range(1, feature.dim()) if d != channel]),
    }[moments]
    if not dims:
        raise ValueError(f"moments='instance' needs positions beside (N, C), got a feature of shape "
                         f"{tuple(feature.shape)}; use 'channel' or 'batch'")
    if moments == 'channel' and num_channels < 2:
        raise ValueError(f"moments='channel' needs at least 2 channels, got {tuple(feature.shape)}")
    mean, variance = _mean_and_variance(feature, dims, unbiased=moments == 'channel')
    return mean, (variance + eps).sqrt()


def _mean_and_variance(feature: Tensor, dims: Tuple[int, ...], unbiased: bool) -> Tuple[Tensor, Tensor]:
    """In two passes: on a CPU ``Tensor.var`` over the channels takes several times as long."""
    mean = feature.mean(dim=dims, keepdim=True)
    squares = (feature - mean).square()
    if not unbiased:
        return mean, squares.mean(dim=dims, keepdim=True)
    return mean, squares.sum(dim=dims, keepdim=True) / (math.prod([feature.shape[d] for d in dims]) - 1)


def _group_moments(feature: Tensor, eps: float, num_groups: int, channel: int) -> Tuple[Tensor, Tensor]:
    num_channels = feature.shape[channel]
    if num_channels % num_groups:
        raise ValueError(f'num_groups must divide the {num_channels} channels of the feature, got {num_groups}')
    moved = feature.movedim(channel, 1)
    grouped = moved.reshape(moved.shape[0], num_groups, math.prod(moved.shape[1:]) // num_groups)
    shape = (moved.shape[0], num_channels, *([1] * (moved.dim() - 2)))

    def spread(value: Tensor) -> Tensor:
        value = value.repeat_interleave(num_channels // num_groups, dim=1).reshape(shape)
        return value.movedim(1, channel)

    mean, variance = _mean_and_variance(grouped, (2, ), unbiased=False)
    return spread(mean.squeeze(2)), spread((variance + eps).sqrt().squeeze(2))


def normalize_feature(feature: Tensor, moments: str = 'channel', eps: float = 1e-5, num_groups: int = 32,
                      channel_dim: Optional[int] = None) -> Tensor:
    """Return ``(f - mu(f)) / sigma(f)``; arguments as of :func:`feature_moments`.

    Example:
        >>> normalize_feature(torch.tensor([[0.], [2.]]), 'batch', eps=0.).flatten().tolist()
        [-1.0, 1.0]
    """
    mean, std = feature_moments(feature, moments, eps, num_groups, channel_dim)
    return (feature - mean) / std


def reinject_statistics(clean: Tensor, perturbed: Tensor, moments: str = 'channel', eps: float = 1e-5,
                        num_groups: int = 32, channel_dim: Optional[int] = None,
                        normalized: Optional[Tensor] = None) -> Tensor:
    """Give the clean feature the statistics of the perturbed one (the method's third equation).

    ``f_mix = sigma(f_i) * (f - mu(f)) / sigma(f) + mu(f_i)``

    Args:
        clean: ``f``, shape ``(N, C, ...)``; keeps its content.
        perturbed: ``f_i``, same shape; gives its mean and standard deviation.
        moments: See :func:`feature_moments`.
        eps: Added to both variances inside the root (1e-5 in the authors' code).
        num_groups: For ``moments='group'``.
        channel_dim: See :func:`feature_moments`.
        normalized: ``(f - mu(f)) / sigma(f)`` of :func:`normalize_feature`, where it is known already.

    Raises:
        ValueError: If the shapes differ, or as in :func:`feature_moments`.

    Example:
        >>> import torch
        >>> f = torch.tensor([[1., 3.]])
        >>> reinject_statistics(f, f * 2 + 1, eps=0.).tolist()
        [[3.0, 7.0]]
    """
    if clean.shape != perturbed.shape:
        raise ValueError(f'perturbed must have the shape of clean, {tuple(clean.shape)}, '
                         f'got {tuple(perturbed.shape)}')
    if normalized is None:
        normalized = normalize_feature(clean, moments, eps, num_groups, channel_dim)
    mean, std = feature_moments(perturbed, moments, eps, num_groups, channel_dim)
    return torch.addcmul(mean, std, normalized)
