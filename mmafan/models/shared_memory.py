"""Whether a tap changes what the model computes: a copy goes to the suffix, and in a pass its module does not run.

And whether a pass can be repeated at all.
"""
from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, List, Optional, Sequence

import torch
from torch import Tensor

from ..replay import Batch, PassKind, PassState, Recording, Replay
from .attack import RunLoss, Suffix
from .exchange import run_again, same_loss
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


def pass_again(suffix: Suffix, batch: Batch, clean: float) -> Losses:
    """Run a pass with the clean feature, which is a constant there.

    Args:
        suffix: At the tap.
        batch: The whole batch.
        clean: The clean loss.

    Raises:
        ValueError: If the forward ends in an error then, with that.
    """
    recording, model = suffix.recording, suffix.model
    try:
        return run_again(suffix)
    except Exception as error:
        if 'out of memory' in str(error):
            raise
        found: List[float] = []
        with suppress(Exception):  # the first error tells more
            found = _loss_twice(model, recording, batch, suffix.run)
        _check_repeats(model, clean, found, suffix.features)
        takes = re.search('differentiated Tensors|not require grad', str(error))
        cause = 'it takes gradients itself' if takes else error
        end = f'{type(model).__name__} ends in {type(error).__name__} ({cause})'
        if recording.replays and _works_without(suffix, batch):
            raise ValueError('afan.replay must be False for this model: where the modules before tap '
                             f'{suffix.name!r} replay, the forward of {end}') from error
        raise ValueError(f'afan.taps.{suffix.name}.module must name a module whose {suffix.tap.at} may be a constant, '
                         f'but with one at {suffix.tap.module!r} the forward of {end}') from error


def _works_without(suffix: Suffix, batch: Batch) -> bool:
    """Whether a pass works in which the prefix runs again."""
    try:
        _loss_of_rerun(suffix.model, suffix.recording, batch, suffix.run, suffix.name)
    except Exception:
        return False
    return True


def check_rerun(model: Any, recording: Recording, batch: Batch, run: RunLoss, name: str, clean: float) -> None:
    """A pass with the clean feature, in which the prefix runs again, must give the clean loss.

    It does not where the tap's module changes its input in place and something else reads that; nor where the loss of a
    batch is never the same.

    Args:
        model: The A-FAN model.
        recording: The clean pass.
        batch: Its batch.
        run: Gives the stock losses of a batch.
        name: Name of the tap.
        clean: The clean loss.

    Raises:
        ValueError: If it does not, with both losses.
    """
    features = recording.captures[name].features
    stock, other = _loss_twice(model, recording, batch, run)
    _check_repeats(model, clean, (stock, other), features)
    again = _loss_of_rerun(model, recording, batch, run, name)
    if not same_loss(again, stock, features, 1e-4):
        raise ValueError(f'afan.taps.{name}.module must name a module that changes nothing but its output, but '
                         f'{model.afan.config.taps[name].module!r} changes what is read elsewhere, such as its input '
                         f'in place: without that the loss is {again:.6g}, with it {stock:.6g}')


def _check_repeats(model: Any, clean: float, found: Sequence[float], features: Sequence[Tensor]) -> None:
    """Losses without a tap must be that of the clean pass, however often they are computed."""
    if not all(same_loss(loss, clean, features, 1e-4) for loss in found):
        raise ValueError(f'{type(model).__name__} must give the same loss when a batch comes again with the same '
                         f'weights and random streams, but gives {clean:.6g}, {found[0]:.6g} and {found[1]:.6g}: what '
                         'its forward changes, or draws from, cannot be put back for an adversarial pass; keep it in a '
                         "buffer or a plain attribute of a module, and draw from torch's, numpy's or Python's stream")


def _loss_of_rerun(model: Any, recording: Recording, batch: Batch, run: RunLoss, name: str) -> float:
    capture = recording.captures[name]
    prefix, capture.prefix = capture.prefix, []
    try:
        return _loss(model, recording, batch, run, name, [f.clone() for f in capture.features])
    finally:
        capture.prefix = prefix


def _stock_loss(model: Any, recording: Recording, batch: Batch, run: RunLoss) -> Optional[float]:
    """Return the loss without a tap; None where it is never the same, which proves nothing."""
    found = {*_loss_twice(model, recording, batch, run)}
    return found.pop() if len(found) == 1 else None


def _loss_twice(model: Any, recording: Recording, batch: Batch, run: RunLoss) -> List[float]:
    """Return the loss without a tap, of two forwards."""
    return [_loss(model, recording, batch, run, '', []) for _ in range(2)]


def _loss(model: Any, recording: Recording, batch: Batch, run: RunLoss, name: str,
          features: Sequence[Tensor]) -> float:
    with Replay(recording, name, features, PassState(PassKind.CHECK, 'batch')), torch.no_grad():
        return float(model.parse_losses(run(batch))[0])
