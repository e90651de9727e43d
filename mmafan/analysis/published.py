"""One training step as A-FAN's authors schedule it, for comparison with this package's schedule."""
from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict, List, Tuple

from torch import Tensor

from ..config import TapConfig
from ..models.tail import Tail
from ..passes import Batch, Recording
from ..passes.attack import Attack
from ..passes.rng import derived_generator
from ..passes.tap import INPUTS

Losses = Dict[str, Any]


class _Reached(Exception):
    """The forward has come to the tap."""


def published_step(model: Any, data: Any, optim_wrapper: Any) -> Tensor:
    """Train one step in the order of the authors' ``main_perturb.py`` and ``main_learnable.py``.

    For every tap: a forward of the head, for its feature alone (with gradients on, as theirs, and
    detached afterwards); for every attack step a forward of the tail and its gradient at the
    feature. Then, for every tap and strength, a forward of the tail; then the whole clean forward;
    all graphs live until one backward of the summed loss. Nothing of the clean pass is used again.

    The authors draw neither samples nor strengths: every sample takes part (``fraction`` is 1) and
    every strength has a pass, of an equal share of the weight where the config draws one. Jumping
    to the tap is done as in this package's own tail passes: both schedules pay the same for it.

    Args:
        model: An A-FAN model; taps at the model's inputs have no head and are not supported.
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
    attacked: List[Tuple[Tail, List[List[Tensor]]]] = []
    for index, (name, tap) in enumerate(taps.items()):
        recording = record_head(model, batch, run, name, tap)
        tail = Tail(model, recording, batch, run, name, tap)
        attack = Attack(tap, tail.features, derived_generator(runtime.iteration, 0, index), 1.0,
                        tail.capture.autocast)
        attack.run(None, tail.gradients)
        learned = runtime.learned.factors[name] if runtime.learned is not None else None
        attacked.append((tail, list(attack.perturbed(learned))))
    total: Any = 0
    for tail, perturbed in attacked:
        for features, weight in zip(perturbed, tail.tap.weight):
            total = total + weight * model.parse_losses(tail.losses(features))[0]
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
        data = model.data_preprocessor(data, True)
    batch = Batch((), data) if isinstance(data, dict) else Batch(tuple(data), {})

    def run(batch: Batch) -> Losses:
        with optim_wrapper.optim_context(model), model.afan.entered():
            return model(*batch.args, **batch.kwargs, mode='loss')

    return batch, run


def record_head(model: Any, batch: Batch, run: Callable[[Batch], Losses], name: str,
                tap: TapConfig) -> Recording:
    """Run the forward up to the tap's first output and no further."""
    # Proposals and RoIs are drawn anew wherever they come after the tap.
    calls = [call._replace(paired=False) for call in model._watched_calls()]
    recording = Recording(model, {name: tap}, batch.size, calls=calls, idle={})

    def stop(*_: Any) -> None:
        raise _Reached

    with recording:
        module = model.get_submodule(tap.module)
        handle = (module.register_forward_hook if tap.at == 'output' else module.register_forward_pre_hook)(stop)
        try:
            run(batch)
        except _Reached:
            pass
        finally:
            handle.remove()
    recording.captures[name].release_graph()
    return recording
