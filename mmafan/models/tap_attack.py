"""Attack a given batch at a given tap, for whatever looks at attacks outside of a training step."""
from __future__ import annotations

import functools
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple, Optional

import torch

from ..replay import Batch, Facts, Recording
from ..replay.rng import derived_generator
from ..tap_config import TapConfig
from .attack import Attack, RunLoss, Suffix
from .first_step import check_feature
from .losses import Losses


class TapAttack(NamedTuple):
    """A tap that has been attacked outside of training.

    Attributes:
        suffix: Runs what comes after the tap at other features.
        attack: Has the clean and the perturbed features.
        losses: Clean losses of the tap, still with their graph; empty where the prefix alone has run.
    """
    suffix: Suffix
    attack: Attack
    losses: Losses


def stock_losses(model: Any, batch: Batch) -> Losses:
    """Compute the losses of the stock model, as a pass of a step does."""
    return model.afan.run(model, batch, functools.partial(model, mode='loss'))


@torch.enable_grad()
def attack_tap(model: Any, batch: Batch, name: str, run: Optional[RunLoss] = None, tap: Optional[TapConfig] = None,
               generator: Optional[torch.Generator] = None, prefix_alone: bool = False) -> TapAttack:
    """Attack a given batch at one tap, as a step of training does.

    Args:
        model: The A-FAN model, in the mode the attack is to be made in; left as it was.
        batch: Preprocessed.
        name: Name of the tap.
        run: Gives the stock losses of a batch; None: :func:`stock_losses`.
        tap: The tap; None: as the model has it.
        generator: CPU generator of the attack's own draws; None: one that depends on the global seed.
        prefix_alone: Whether the forward stops at the tap, so that the attack takes its first gradient from a pass of
            its own, and no pass gets results of the clean one that come after the tap.

    Raises:
        ValueError: If there is no tap of that name, or it has no feature with a gradient.
    """
    taps = model.afan.config.taps
    if name not in taps:
        raise ValueError(f'tap must be one of {tuple(taps)}, got {name!r}')
    tap, run = tap or taps[name], run or functools.partial(stock_losses, model)
    calls = tuple(call._replace(paired=call.paired and not prefix_alone)
                  for call in model.afan.codebase.watched_calls(model))
    recording = Recording(model, {name: tap}, batch.size, Facts(calls))
    losses: Losses = {}
    with recording:
        batch = batch.with_inputs(recording.record_inputs(batch.inputs))
        if prefix_alone:
            module = model.get_submodule(tap.module)
            stop = module.register_forward_hook if tap.at == 'output' else module.register_forward_pre_hook
            with suppress(_Reached), stop(_end_forward):
                run(batch)
        else:
            losses = run(batch)
    check_feature(name, tap, recording.captures[name])
    known = model.afan.facts
    recording.facts = replace(recording.learned(), other_losses={} if known is None else known.other_losses)
    suffix = Suffix(model, recording, batch, run, name, tap)
    attack = Attack(tap, suffix.features, generator or derived_generator(model.afan.controls.iteration, 0, 0, 1),
                    keep_wide=suffix.capture.autocast)
    clean = suffix.clean_gradients(losses) if tap.starts_clean and not prefix_alone else None
    recording.release_graph()
    attack.run(clean, suffix.gradients)
    return TapAttack(suffix, attack, suffix.select(losses))


class _Reached(Exception):
    """The forward has come to the tap."""


def _end_forward(*_: Any) -> None:
    raise _Reached
