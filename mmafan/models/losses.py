"""Losses of a whole step under names that differ, each of which still knows what the model calls it."""
from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from torch import Tensor

from ..replay.tree import map_tensors, tensors_of

Losses = Dict[str, Any]
_TAKEN = re.compile(r'(clean_)*(loss$|adv_\w+_\d+\.)')


class Term(str):
    """The name of one entry in the losses of a part of a step.

    Args:
        shown: The name.
        own: What the model calls it.
        part: Prefix and weight of the part it belongs to; None: the losses are the model's.
        counts: Whether it is a loss; where a model has a way of its own to sum them up, its name need not say so.
        kept: Whether it is more than a constant that the model's way to sum up asks for.
    """
    own: str
    part: Optional[Tuple[str, float]]
    counts: bool
    kept: bool

    def __new__(cls, shown: str, own: str, part: Optional[Tuple[str, float]] = None,
                counts: bool = True, kept: bool = True) -> 'Term':
        made = super().__new__(cls, shown)
        made.own, made.part, made.counts, made.kept = own, part, counts, kept
        return made

    def __getnewargs__(self) -> Any:
        return str(self), self.own, self.part, self.counts, self.kept


def is_loss(key: str) -> bool:
    """Whether ``parse_losses`` of the model adds this entry to the total."""
    return key.counts if isinstance(key, Term) else 'loss' in key


def clean_name(name: str) -> str:
    """Name a clean loss beside adversarial ones and the total, so that no two names are the same.

    Example:
        >>> [clean_name(name) for name in ('loss_cls', 'loss', 'clean_loss', 'adv_t_0.loss', 'adv_loss')]
        ['loss_cls', 'clean_loss', 'clean_clean_loss', 'clean_adv_t_0.loss', 'adv_loss']
    """
    return f'clean_{name}' if _TAKEN.match(name) else name


def named(losses: Losses) -> Losses:
    """Let the names of losses remember themselves, for a model that does not sum them up in mmengine's way."""

    def is_term(key: str, value: Any) -> bool:
        return 'loss' in key or any(tensor.requires_grad for tensor in tensors_of(value))

    return {Term(key, key, counts=is_term(key, value)): value for key, value in losses.items()}


def weight_losses(losses: Losses, weight: float, prefix: str = '') -> Losses:
    """Multiply every loss term by ``weight`` and put ``prefix`` before every key; clean ones have none.

    A term named just ``'loss'`` becomes ``'clean_loss'``: ``parse_losses`` logs the total under that name.

    Example:
        >>> import torch
        >>> weight_losses({'loss': torch.tensor(2.), 'accuracy': torch.tensor(1.)}, 0.5, 'adv_a_0.')
        {'adv_a_0.loss': tensor(1.), 'adv_a_0.accuracy': tensor(1.)}
        >>> weight_losses({'loss': torch.tensor(2.)}, 0.5)
        {'clean_loss': tensor(1.)}
    """

    def rename(key: str) -> str:
        shown = prefix + key if prefix else clean_name(key)
        return Term(shown, key.own, (prefix, weight), key.counts, key.kept) if isinstance(key, Term) else shown

    return {rename(key): map_tensors(lambda t: t * weight, value) if is_loss(key) and weight != 1 else value
            for key, value in losses.items()}


def keep_losses(losses: Losses, keeps: Callable[[str], bool]) -> Losses:
    """Leave losses out; where a model sums them up in its own way they become constants, so that it finds them all.

    Args:
        losses: Of the model.
        keeps: Whether to keep the losses of a name; what is no loss stays.
    """
    made: Losses = {}
    for key, value in losses.items():
        if not is_loss(key) or keeps(key):
            made[key] = value
        elif isinstance(key, Term):
            made[Term(key, key.own, key.part, counts=False, kept=False)] = map_tensors(Tensor.detach, value)
    return made


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
    return keep_losses(losses, chosen.__contains__)


def loss_tensors(losses: Losses) -> List[Tensor]:
    """List the tensors of all loss terms."""
    return [t for k, v in losses.items() if is_loss(k) for t in tensors_of(v)]


def depends(losses: Losses) -> bool:
    """Whether any loss term has a gradient."""
    return any(tensor.requires_grad for tensor in loss_tensors(losses))


def depending_losses(losses: Losses) -> Losses:
    """Leave out the loss terms without a gradient: those that were computed before the tap, and replayed."""
    return keep_losses(losses, lambda key: depends({key: losses[key]}))


def detach_losses(losses: Losses) -> Losses:
    """Detach every entry, for logging."""
    return {k: map_tensors(Tensor.detach, v) for k, v in losses.items()}


def parse_parts(parse: Callable[[Losses], Tuple[Any, Dict[str, Any]]], losses: Losses) -> Tuple[Any, Dict[str, Any]]:
    """Let a model sum up its losses part by part, under its own names and without their weights.

    Args:
        parse: ``parse_losses`` of the stock model.
        losses: Of one part or several; those without parts are summed up as they are.
    """
    parts: Dict[Any, Losses] = {}
    for key, value in losses.items():
        if isinstance(key, Term):
            parts.setdefault(key.part, {})[key] = value
    if not parts:
        return parse(losses)
    if None in parts:
        return parse({key.own: value for key, value in losses.items() if isinstance(key, Term)})
    total: Any = 0
    log: Dict[str, Any] = {}
    for (prefix, weight), terms in parts.items():
        shown = {key.own: key for key in terms if isinstance(key, Term)}
        found, variables = parse({own: map_tensors(lambda t: t / weight, terms[key]) if key.counts else terms[key]
                                  for own, key in shown.items()})
        total = total + weight * found
        for name, value in variables.items():
            term = shown.get(name)
            if term is not None and term.kept:
                log[str(term)] = value * weight if term.counts else value
            elif term is None and name != 'loss':
                log[prefix + name if prefix else clean_name(name)] = value
    return total, {'loss': total, **log}
