"""Perturbing a feature: the steps of PGD, its projections, and the strengths.

Everything here works per sample: row ``n`` of the first dimension never influences row ``m``, so that a
result does not depend on which other samples share the batch.  Nothing is modified in place.
"""
from __future__ import annotations

import math
from typing import Any, Dict, List, Optional, Sequence

import torch
from torch import Tensor

NORMS = ('linf', 'l2')


def _check_norm(norm: str) -> None:
    if norm not in NORMS:
        raise ValueError(f'norm must be one of {NORMS}, got {norm!r}')


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """Reshape ``(N,)`` so that it broadcasts over ``like`` of shape ``(N, ...)``."""
    return value.reshape(-1, *([1] * (like.dim() - 1)))


def _rows(tensor: Tensor) -> Tensor:
    """View ``(N, ...)`` as ``(N, D)``, also where N is 0."""
    return tensor.flatten(1) if tensor.dim() > 1 else tensor.unsqueeze(1)


def _sample_l2(tensor: Tensor) -> Tensor:
    """Euclidean length of every sample, shape ``(N, 1, ..., 1)``."""
    return per_sample(_rows(tensor).norm(dim=1), tensor)


def finite_samples(gradient: Tensor) -> Tensor:
    """Tell which samples have a gradient without NaN or infinity.

    Args:
        gradient: Shape ``(N, ...)``.

    Returns:
        Boolean tensor of shape ``(N,)``.

    Example:
        >>> finite_samples(torch.tensor([[1., 2.], [float('nan'), 0.]])).tolist()
        [True, False]
    """
    # The largest magnitude is NaN or infinite where any element is: one pass, no boolean copy.
    return torch.linalg.vector_norm(_rows(gradient), ord=math.inf, dim=1) < math.inf


def sample_std(feature: Tensor) -> Tensor:
    """Standard deviation of every sample over all its elements (biased), the unit of relative steps.

    Args:
        feature: Shape ``(N, ...)``, floating.

    Returns:
        Shape ``(N, 1, ..., 1)``.

    Example:
        >>> sample_std(torch.tensor([[0., 2.], [5., 5.]])).flatten().tolist()
        [1.0, 0.0]
    """
    flat = _rows(feature.detach())
    return per_sample((flat - flat.mean(dim=1, keepdim=True)).square().mean(dim=1).sqrt(), feature)


def ascend(feature: Tensor, gradient: Tensor, step_size: Tensor | float, norm: str = 'linf',
           finite: Optional[Tensor] = None) -> Tensor:
    """Take one step that raises the loss: ``f + step_size * direction(g)``.

    The direction is ``sign(g)`` for ``norm='linf'`` (the method's equation) and ``g / ||g||_2``, per
    sample, for ``norm='l2'``.  A sample whose gradient is not finite stays where it is.

    Args:
        feature: Where to step from, ``(N, ...)``.
        gradient: ``dL/df`` at ``feature``, same shape; its scale does not matter.
        step_size: A number, or a tensor that broadcasts over ``feature``, in the feature's own unit.
        norm: ``'linf'`` or ``'l2'``.
        finite: Of :func:`finite_samples`, where it is known already.

    Raises:
        ValueError: If ``norm`` is unknown or the shapes differ.

    Example:
        >>> ascend(torch.zeros(1, 2), torch.tensor([[3., -4.]]), 0.5).tolist()
        [[0.5, -0.5]]
        >>> ascend(torch.zeros(1, 2), torch.tensor([[3., -4.]]), 0.5, norm='l2').tolist()
        [[0.30000001192092896, -0.4000000059604645]]
    """
    _check_norm(norm)
    if gradient.shape != feature.shape:
        raise ValueError(f'gradient must have the shape of feature, {tuple(feature.shape)}, '
                         f'got {tuple(gradient.shape)}')
    keep = per_sample(finite_samples(gradient) if finite is None else finite, feature)
    if norm == 'linf':
        direction = gradient.sign()  # torch's sign of NaN is 0, of infinity 1
    else:
        gradient = torch.where(keep, gradient, torch.zeros_like(gradient))
        # Dividing by the largest element first keeps the squares of tiny gradients from underflowing.
        peak = per_sample(_rows(gradient.abs()).amax(dim=1), gradient)
        gradient = gradient / torch.where(peak > 0, peak, torch.ones_like(peak))
        direction = gradient / _sample_l2(gradient).clamp_min(1)  # which is at least that, or all elements are 0
    # Only the direction is rounded to the feature's precision: a gradient may lie outside of its range.
    return torch.addcmul(feature, direction.to(feature.dtype), keep.to(feature.dtype) * step_size)


def strongest_gradients(groups: Sequence[Sequence[Optional[Tensor]]], total: Sequence[Optional[Tensor]],
                        norm: str = 'linf') -> List[Optional[Tensor]]:
    """Choose, sample by sample, the loss whose attack raises the whole loss the most, to first order.

    A step along ``d_k``, the direction of the gradient ``g_k`` of loss ``k``, raises the whole loss by ``<g, d_k>`` per
    unit of length. This is the first-order form of the choice between the attacks on classification and on
    localisation in Zhang and Wang, "Towards Adversarially Robust Object Detection" (ICCV 2019).

    Args:
        groups: For each loss, its gradients at every tensor of the feature, each ``(N, ...)``; None for no gradient.
        total: Gradients of the whole loss.
        norm: ``'linf'`` or ``'l2'``, the norm of the step.

    Returns:
        For every tensor the chosen gradients. Tensors with the same N are samples of one batch and choose together.

    Example:
        >>> first, second = torch.tensor([[3., 0.], [1., 0.]]), torch.tensor([[0., 1.], [0., 2.]])
        >>> strongest_gradients([[first], [second]], [first + second])[0].tolist()
        [[3.0, 0.0], [0.0, 2.0]]
    """
    _check_norm(norm)
    rises: Dict[int, Tensor] = {}
    for index, whole in enumerate(total):
        if whole is not None:
            rise = torch.stack([_rise(whole, group[index], norm) for group in groups])
            rises[len(whole)] = rises.get(len(whole), 0) + rise
    chosen: List[Optional[Tensor]] = []
    for index, whole in enumerate(total):
        if whole is None:
            chosen.append(None)
            continue
        best = rises[len(whole)].argmax(dim=0)
        gradient = torch.zeros_like(whole)
        for number, group in enumerate(groups):
            own = group[index]
            if own is not None:
                gradient = torch.where(per_sample(best == number, own), own, gradient)
        chosen.append(gradient)
    return chosen


def _rise(whole: Tensor, own: Optional[Tensor], norm: str) -> Tensor:
    """Rise of the whole loss, ``(N,)``, by a step of unit length along the direction of one gradient."""
    if own is None:
        return whole.new_zeros(len(whole), dtype=torch.float32)
    wide, own = _rows(whole).float(), _rows(own).float()
    if norm == 'linf':
        return (wide * own.sign()).sum(dim=1)
    return (wide * own).sum(dim=1) / own.norm(dim=1).clamp_min(torch.finfo(own.dtype).tiny)


def project_linf(perturbation: Tensor, radius: Tensor | float) -> Tensor:
    """Clip every element of a perturbation to ``[-radius, radius]``.

    Args:
        perturbation: ``f_adv - f``, shape ``(N, ...)``.
        radius: A number, or a tensor that broadcasts over ``perturbation``; not negative.

    Example:
        >>> project_linf(torch.tensor([[3., -0.5]]), 1.0).tolist()
        [[1.0, -0.5]]
    """
    limit: Any = radius  # torch takes both numbers or both tensors
    return perturbation.clamp(-limit, limit)


def project_l2(perturbation: Tensor, radius: Tensor | float) -> Tensor:
    """Scale a perturbation back to Euclidean length ``radius``, sample by sample, where it is longer.

    Args:
        perturbation: ``f_adv - f``, shape ``(N, ...)``.
        radius: A number, or a tensor of shape ``(N, 1, ..., 1)``; not negative.

    Example:
        >>> project_l2(torch.tensor([[3., 4.], [0.3, 0.4]]), 1.0).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.30000001192092896, 0.4000000059604645]]
    """
    length = _sample_l2(perturbation).clamp_min(torch.finfo(perturbation.dtype).tiny)
    return perturbation * (radius / length).clamp_max(1)


def draw_random_start(feature: Tensor, radius: Tensor | float, norm: str = 'linf',
                      generator: Optional[torch.Generator] = None) -> Tensor:
    """Draw a perturbation inside the ball: uniform per element (L-inf), or uniform in the L2 ball.

    Args:
        feature: Gives shape ``(N, ...)``, dtype and device.
        radius: A number, or a tensor that broadcasts over ``feature``.
        norm: ``'linf'`` or ``'l2'``.
        generator: Source of randomness, which draws on its own device; None: the global one of the
            feature's device.

    Example:
        >>> start = draw_random_start(torch.zeros(4, 3), 0.1)
        >>> bool((start.abs() <= 0.1).all())
        True
    """
    _check_norm(norm)
    device = feature.device if generator is None else generator.device
    if norm == 'linf':
        noise = torch.rand(feature.shape, generator=generator, device=device).to(feature) * 2 - 1
        return noise * radius
    noise = torch.randn(feature.shape, generator=generator, device=device).to(feature)
    dimension = max(feature[:1].numel(), 1)
    share = torch.rand(feature.shape[0], generator=generator, device=device).to(feature) ** (1 / dimension)
    length = _sample_l2(noise).clamp_min(torch.finfo(noise.dtype).tiny)
    return noise / length * per_sample(share, feature) * radius


def draw_strengths(strengths: Sequence[float], num_samples: int,
                   generator: Optional[torch.Generator] = None) -> Tensor:
    """Draw the index of one strength per sample, all equally likely.

    Returns:
        Long tensor of shape ``(num_samples,)`` on the CPU with values in ``[0, len(strengths))``.

    Example:
        >>> draw_strengths((0.5, 1.0), 6).shape
        torch.Size([6])
    """
    return torch.randint(len(strengths), (num_samples, ), generator=generator)


def mix_strength(clean: Tensor, adversarial: Tensor, strength: Tensor | float) -> Tensor:
    """Go a fraction of the way from the clean to the adversarial feature: ``f + s * (f_adv - f)``.

    Args:
        clean: ``f``, shape ``(N, ...)``.
        adversarial: ``f_adv``, same shape.
        strength: ``s``, a number or a tensor that broadcasts (``(N, 1, ..., 1)`` for one per sample), of the same
            dtype.

    Example:
        >>> mix_strength(torch.zeros(1, 2), torch.tensor([[4., 8.]]), 0.25).tolist()
        [[1.0, 2.0]]
    """
    return torch.lerp(clean, adversarial, strength)
