"""One training step as A-FAN's authors schedule it, for comparison with this package's schedule."""
from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict, List, Tuple

from torch import Tensor

from ..models.tap_attack import TapAttack, attack_tap, stock_losses
from ..replay import INPUTS, Batch
from ..replay.rng import derived_generator
from ..tap_config import TapConfig

Losses = Dict[str, Any]


def published_step(model: Any, data: Any, optim_wrapper: Any) -> Tensor:
    """Train one step in the order of the authors' ``main_perturb.py`` and ``main_learnable.py``.

    For every tap: a forward of the prefix, for its feature alone (with gradients on, as theirs, and
    detached afterwards); for every attack step a forward of the suffix and its gradient at the
    feature. Then, for every tap and strength, a forward of the suffix; then the whole clean forward;
    all graphs live until one backward of the summed loss. Nothing of the clean pass is used again.

    The authors draw neither samples nor strengths: every sample takes part (``fraction`` is 1) and
    every strength has a pass, of an equal share of the weight where the config draws one. Jumping
    to the tap is done as in this package's own passes: both schedules pay the same for it.

    Args:
        model: An A-FAN model; taps at the model's inputs have no prefix and are not supported.
        data: A batch of the data loader.
        optim_wrapper: Of the model's parameters; it makes the backward and the step.

    Returns:
        The summed loss, detached.

    Raises:
        ValueError: If a tap is at the inputs.
    """
    runtime = model.afan
    taps = {name: published_tap(tap) for name, tap in runtime.config.taps.items() if tap.active}
    for name, tap in taps.items():
        if tap.module == INPUTS:
            raise ValueError(f'afan.taps.{name}.module must name a module of the network for the '
                             f'published schedule, got {INPUTS!r}')
    batch, run = prepare(model, data, optim_wrapper)
    attacked: List[Tuple[TapAttack, list]] = []
    for index, (name, tap) in enumerate(taps.items()):
        generator = derived_generator(runtime.controls.iteration, 0, index)
        found = attack_tap(model, batch, name, run, tap, generator, prefix_alone=True)
        learned = runtime.learned.factors[name] if runtime.learned is not None else None
        attacked.append((found, list(found.attack.passes(learned))))
    total: Any = 0
    for found, passes in attacked:
        for wanted, features in passes:
            total = total + wanted.weight * model.parse_losses(found.suffix.losses(features))[0]
    total = total + runtime.config.clean_weight * model.parse_losses(run(batch))[0]
    optim_wrapper.update_params(total)
    return total.detach()


def published_tap(tap: TapConfig) -> TapConfig:
    """Return the tap without what the authors' code does not have: drawn strengths and samples."""
    if tap.strength_sampling == 'random':
        weight = (tap.weight[0] / len(tap.strengths), )
        tap = replace(tap, strength_sampling='all', weight=weight)
    return replace(tap, fraction=1.0)


def prepare(model: Any, data: Any, optim_wrapper: Any) -> Tuple[Batch, Callable[[Batch], Losses]]:
    """Preprocess a batch; return it with the function that computes the stock losses of a batch."""
    with optim_wrapper.optim_context(model):
        batch = Batch.of(model.data_preprocessor(data, True), model.forward)

    def run(batch: Batch) -> Losses:
        with optim_wrapper.optim_context(model):
            return stock_losses(model, batch)

    return batch, run
