"""Margins of a classifier, layer by layer.

To first order the decision boundary between the label y and the strongest other class j lies, in the space of a layer's
feature h, at the distance (Elsayed et al., "Large Margin Deep Networks for Classification", NeurIPS 2018)

    d = (f_y - f_j) / ||grad_h (f_y - f_j)||_q,    j = argmax over j != y of f_j,

signed: negative where the classifier is wrong. The distance is measured in the norm whose dual is q: in L2 for q = 2,
in L-infinity for q = 1. Features of different layers have different scales, so d is divided by the spread of h over
the samples: in L2 the square root of its total variance (the sum of the variances of its elements, as in Jiang et al.,
"Predicting the Generalization Gap in Deep Networks with Margin Distributions", ICLR 2019), in L-infinity the root mean
square of the elements' differences from their means.
"""
from __future__ import annotations

import functools
import math
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..replay import INPUTS
from ..validation import check_choice
from .layers import LayerOutputs, check_layers, choose_layers

NORMS = ('l2', 'linf')


def logit_margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute ``f_y - max over j != y of f_j``, shape ``(N,)``.

    Args:
        logits: ``f``, shape ``(N, K)`` with at least two classes.
        labels: ``y``, long, shape ``(N,)``.

    Raises:
        ValueError: If the shapes are others.

    Example:
        >>> logit_margins(torch.tensor([[3., 1., 2.], [3., 1., 2.]]), torch.tensor([0, 1])).tolist()
        [1.0, -2.0]
    """
    if logits.dim() != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f'logits must have the shape (N, K), K at least 2, and labels (N,), got '
                         f'{tuple(logits.shape)} and {tuple(labels.shape)}')
    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    return logits[own] - logits.masked_fill(own, -math.inf).amax(dim=1)


def margin_distances(margins: Tensor, gradients: Sequence[Tensor], norm: str = 'l2') -> Tensor:
    """Divide margins by the dual norm of their gradients, sample by sample.

    Args:
        margins: Shape ``(N,)``.
        gradients: Of the margins at the tensors of a layer, each ``(N, ...)``.
        norm: The norm distances are measured in, ``'l2'`` or ``'linf'``.

    Returns:
        Shape ``(N,)``, float64; infinite where the gradient is 0.

    Raises:
        ValueError: If ``norm`` is unknown.

    Example:
        >>> margin_distances(torch.tensor([10.]), [torch.tensor([[3., -4.]])]).tolist()
        [2.0]
    """
    check_choice('norm', norm, NORMS)
    flat = torch.cat([g.flatten(1) for g in gradients], dim=1).double()
    return margins.double() / torch.linalg.vector_norm(flat, ord=2 if norm == 'l2' else 1, dim=1)


class FeatureSpread:
    """Spread of a feature over all samples of several batches (see the module's text)."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, torch.zeros(()), 0.0

    def add(self, features: Sequence[Tensor]) -> None:
        """Take the tensors of a layer, each ``(N, ...)``."""
        flat = torch.cat([f.detach().flatten(1) for f in features], dim=1).double()
        self._count += len(flat)
        self._sum = self._sum.to(flat) + flat.sum(dim=0)
        self._squares += float(flat.square().sum())

    def value(self, norm: str) -> float:
        """Root of the total variance for ``'l2'``, of the mean variance for ``'linf'``."""
        mean = self._sum / self._count
        total = max(self._squares / self._count - float(mean.square().sum()), 0.0)
        return (total if norm == 'l2' else total / mean.numel()) ** 0.5


def measure_margins(model: Any, batches: Sequence[Any], layers: Optional[Sequence[str]] = None,
                    norm: str = 'l2') -> Tuple[Dict[str, Tensor], Tensor]:
    """Measure the margins of a classifier at its input and its layers.

    Args:
        model: A classifier of mmpretrain, with or without A-FAN, in evaluation mode; left as it was.
        batches: Prepared batches: ``inputs`` ``(N, 3, H, W)`` and ``data_samples``.
        layers: Names of modules; None: the blocks of the backbone, the neck and the head.
        norm: ``'l2'`` or ``'linf'``.

    Returns:
        By layer, the input first, the normalised signed distance of every sample ``(S,)``, and the logit margins.

    Raises:
        ValueError: If the model returns no logits, or a sample has not one label, or a layer is unknown, has not one
            row for each sample, or does not lead to the logits.
    """
    if layers is not None:
        check_layers(model, layers)
    distances: Dict[str, List[Tensor]] = {}
    spreads: Dict[str, FeatureSpread] = {}
    margins: List[Tensor] = []
    for batch in batches:
        inputs, samples = batch['inputs'].detach().clone().requires_grad_(), batch['data_samples']
        if layers is None:
            with torch.no_grad():
                layers = choose_layers(model, lambda: model(inputs, samples, mode='tensor')).default
        outputs = LayerOutputs(model, layers, with_grad=True)
        with torch.enable_grad(), outputs:
            logits = model(inputs, samples, mode='tensor')
            margin = logit_margins(_check_logits(logits), _labels_of(samples, logits.device))
        kept = {INPUTS: [inputs], **outputs.take()}
        gradients = functools.partial(torch.autograd.grad, margin.sum(), retain_graph=True, allow_unused=True)
        for name in (INPUTS, *layers):
            features = [t for t in kept.get(name, ()) if t.requires_grad]
            found = gradients(features) if features else ()
            used = [(f, g) for f, g in zip(features, found) if g is not None]
            if not used or any(len(f) != len(logits) for f, _ in used):
                raise ValueError(f'layers must return one row a sample and lead to the logits, but {name!r} does not')
            distances.setdefault(name, []).append(margin_distances(margin.detach(), [g for _, g in used], norm).cpu())
            spreads.setdefault(name, FeatureSpread()).add([f for f, _ in used])
        margins.append(margin.detach().cpu())
    return ({name: torch.cat(values) / spreads[name].value(norm) for name, values in distances.items()},
            torch.cat(margins))


def _check_logits(logits: Any) -> Tensor:
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise ValueError(f"margins need a classifier whose forward(..., mode='tensor') gives logits (N, K), got "
                         f'{tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__}')
    return logits


def _labels_of(samples: Any, device: torch.device) -> Tensor:
    labels = [sample.gt_label for sample in samples or () if 'gt_label' in sample]
    if not labels or len(labels) != len(samples) or any(label.numel() != 1 for label in labels):
        raise ValueError('margins need data samples with one gt_label each')
    return torch.cat([label.reshape(1) for label in labels]).to(device)
