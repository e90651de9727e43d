"""Loss dicts: choosing, weighting, prefixing and detaching their entries."""
from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Callable, Dict, List, Optional, Sequence

from torch import Tensor

Losses = Dict[str, Any]


def _entries(function: Callable[[Tensor], Any], value: Any) -> Any:
    return [function(v) for v in value] if isinstance(value, (list, tuple)) else function(value)


def is_loss(key: str) -> bool:
    """Whether ``BaseModel.parse_losses`` adds this entry to the total."""
    return 'loss' in key


def select_losses(losses: Losses, names: Optional[Sequence[str]], where: Optional[str] = None) -> Losses:
    """Keep the loss terms with the given names (and all diagnostics); None keeps everything.

    Args:
        losses: Of the model.
        names: Names, or patterns such as ``'*loss_cls'`` (see :mod:`fnmatch`).
        where: Name of the field, to check the names. They are not checked in every step: some detectors leave a loss
            out where a batch has nothing to compute it from.

    Raises:
        ValueError: If ``where`` is given and a name matches none, with the names that are there.

    Example:
        >>> sorted(select_losses({'loss_cls': 1, 'd0.loss_cls': 2, 'd0.loss_iou': 3}, ('*loss_cls',)))
        ['d0.loss_cls', 'loss_cls']
    """
    if names is None:
        return losses
    present = [k for k in losses if is_loss(k)]
    chosen = set()
    for name in names:
        found = [k for k in present if fnmatchcase(k, name)]
        if not found and where is not None:
            raise ValueError(f'{where} names {name!r}, but the losses of the model are {present}')
        chosen.update(found)
    return {k: v for k, v in losses.items() if k in chosen or not is_loss(k)}


def loss_tensors(losses: Losses) -> List[Tensor]:
    """List the tensors of all loss terms."""
    return [t for k, v in losses.items() if is_loss(k) for t in (v if isinstance(v, (list, tuple)) else [v])]


def _depends(value: Any) -> bool:
    values = value if isinstance(value, (list, tuple)) else [value]
    return any(v.requires_grad for v in values)


def depends(losses: Losses) -> bool:
    """Whether any loss term has a gradient."""
    return any(is_loss(k) and _depends(v) for k, v in losses.items())


def depending_losses(losses: Losses) -> Losses:
    """Leave out the loss terms without a gradient: those that were computed before the tap, and replayed."""
    return {k: v for k, v in losses.items() if not is_loss(k) or _depends(v)}


def weight_losses(losses: Losses, weight: float, prefix: str = '') -> Losses:
    """Multiply every loss term by ``weight`` and put ``prefix`` before every key.

    Example:
        >>> import torch
        >>> weight_losses({'loss': torch.tensor(2.), 'accuracy': torch.tensor(1.)}, 0.5, 'adv_a_0.')
        {'adv_a_0.loss': tensor(1.), 'adv_a_0.accuracy': tensor(1.)}
    """
    return {prefix + k: _entries(lambda v: v * weight, v) if is_loss(k) and weight != 1 else v
            for k, v in losses.items()}


def clean_losses(losses: Losses, weight: float) -> Losses:
    """Weight the clean losses for a sum with adversarial ones.

    A term named just ``'loss'`` becomes ``'clean_loss'``: ``parse_losses`` logs the total under that name.

    Example:
        >>> import torch
        >>> clean_losses({'loss': torch.tensor(2.)}, 0.5)
        {'clean_loss': tensor(1.)}
    """
    return {'clean_loss' if k == 'loss' else k: v for k, v in weight_losses(losses, weight).items()}


def detach_losses(losses: Losses) -> Losses:
    """Detach every entry, for logging."""
    return {k: _entries(Tensor.detach, v) for k, v in losses.items()}
