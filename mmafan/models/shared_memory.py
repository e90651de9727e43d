"""Whether a tap changes what the model computes: a copy goes to the suffix, and in a pass its module does not run."""
from __future__ import annotations

from typing import Any, Optional, Sequence

import torch
from torch import Tensor

from ..replay import Batch, PassKind, PassState, Recording, Replay
from .attack import RunLoss
from .exchange import same_loss
from .losses import Losses


def check_copies(model: Any, recording: Recording, batch: Batch, run: RunLoss, losses: Losses, name: str) -> None:
    """The copy of the feature must give the loss that the feature itself gives.

    They differ where something else shares the memory of the feature, as the input of an identity does, and one of the
    two is changed in place afterwards.

    Raises:
        ValueError: If they do, with both losses.
    """
    clean = float(model.parse_losses(losses)[0].detach())
    stock = _stock_loss(model, recording, batch, run)
    if stock is not None and not same_loss(clean, stock, recording.captures[name].features, 1e-4):
        tap = model.afan.config.taps[name]
        raise ValueError(f'afan.taps.{name}.module must name a module whose {tap.at} no other tensor shares its memory '
                         f'with, but that of {tap.module!r} is also held elsewhere and changed in place: with a copy '
                         f'at the tap the loss is {clean:.6g}, without it {stock:.6g}')


def check_rerun(model: Any, recording: Recording, batch: Batch, run: RunLoss, name: str) -> None:
    """A pass with the clean feature, in which the prefix runs again, must give the clean loss.

    It does not where the tap's module changes its input in place and something else reads that.

    Raises:
        ValueError: If it does not, with both losses.
    """
    capture, stock = recording.captures[name], _stock_loss(model, recording, batch, run)
    prefix, capture.prefix = capture.prefix, []
    try:
        again = _loss(model, recording, batch, run, name, [f.clone() for f in capture.features])
    finally:
        capture.prefix = prefix
    if stock is not None and not same_loss(again, stock, capture.features, 1e-4):
        raise ValueError(f'afan.taps.{name}.module must name a module that changes nothing but its output, but '
                         f'{model.afan.config.taps[name].module!r} changes what is read elsewhere, such as its input '
                         f'in place: without that the loss is {again:.6g}, with it {stock:.6g}')


def _stock_loss(model: Any, recording: Recording, batch: Batch, run: RunLoss) -> Optional[float]:
    """Return the loss without a tap; None where it is never the same, which proves nothing."""
    found = {_loss(model, recording, batch, run, '', []) for _ in range(2)}
    return found.pop() if len(found) == 1 else None


def _loss(model: Any, recording: Recording, batch: Batch, run: RunLoss, name: str,
          features: Sequence[Tensor]) -> float:
    with Replay(recording, name, features, PassState(PassKind.CHECK, 'batch')), torch.no_grad():
        return float(model.parse_losses(run(batch))[0])
