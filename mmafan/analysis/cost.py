"""Time and peak memory of a training step: without A-FAN, with it, and as its authors schedule it.

All steps are measured in one process and in turn (baseline, A-FAN, published, probe, and again), on
the same batches and the same weights, with a learning rate of 0 so that they stay the same; numbers
are medians over the rounds. Where batches are so small that a tap sits steps out, an A-FAN step is
the mean of as many as its rhythm takes. The *probe* is a baseline step that also notes when the forward leaves
each tap and when the backward comes back to it: what lies between is the suffix, and its part of the
step is its share tau.

In theory a step with A-FAN costs, in units of a baseline step,

    1 + sum over taps of  p / k * (N * tau + A * alpha)

with N adversarial passes (the number of strengths, or 1 where each sample draws one), p the
fraction of the samples that takes part in every k-th step, A the attack passes that the clean backward does not give
for nothing (``num_steps - 1``, or ``num_steps`` with a random start), and alpha the measured share
of one such pass: a forward of the suffix and its gradient at the tap, no gradient of weights. Not in
the theory: the second backward through the suffix that a tap with ``losses`` of its own needs in the
clean pass, and the exchange of gradients between processes, which is the same for both.

Where processes train together, each measures its own steps: the baseline under
``MMDistributedDataParallel``, A-FAN under ``AFANDistributedDataParallel``, or with
``afan.schedule='single_graph'`` under the stock wrapper too.
"""
from __future__ import annotations

import functools
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Sequence

import torch
from mmengine.dist import is_distributed

from ..models.participation import num_chosen
from ..models.tap_attack import attack_tap
from ..replay import INPUTS
from ..tap_config import TapConfig
from .arm import Arm, first_of
from .memory import peak_memory, resident_bytes
from .published import prepare, published_step
from .timing import Clock, SuffixProbe, time_in_turn


@dataclass
class StepCost:
    """Result of :func:`measure_step_cost`.

    Attributes:
        seconds: Median of a step: ``baseline``, ``afan`` and, where measured, ``published``.
        rounds: All measured seconds.
        suffixes: For each tap ``share`` (tau), ``attack_share`` (alpha; 0 where no attack pass runs),
            ``passes`` (N), ``attack_passes`` (A) and ``fraction`` (p).
        theory: Theoretical cost of the A-FAN step in baseline steps.
        memory_bytes: Peak memory by name: what the model and its optimizer hold, and the most that
            the step allocates beside it.
        exchanged: Where processes train together, by name ``bytes`` and ``reductions`` of gradients
            of one step.
    """
    seconds: Dict[str, float]
    rounds: Dict[str, List[float]]
    suffixes: Dict[str, Dict[str, float]]
    theory: float
    memory_bytes: Dict[str, int] = field(default_factory=dict)
    exchanged: Dict[str, Dict[str, int]] = field(default_factory=dict)

    @property
    def ratios(self) -> Dict[str, float]:
        """Relative costs, each named ``<one>_over_<other>``."""
        time_, memory = self.seconds, self.memory_bytes
        ratios = {'afan_over_baseline': time_['afan'] / time_['baseline']}
        ratios['afan_over_theory'] = ratios['afan_over_baseline'] / self.theory
        if 'published' in time_:
            ratios['published_over_baseline'] = time_['published'] / time_['baseline']
            ratios['published_over_afan'] = time_['published'] / time_['afan']
        for name in ('afan', 'published'):
            if name in memory:
                ratios[f'{name}_memory_over_baseline'] = memory[name] / memory['baseline']
        return ratios

    def to_dict(self) -> Dict[str, Any]:
        """Everything as plain numbers."""
        return {**asdict(self), 'ratios': self.ratios}


def theoretical_cost(taps: Mapping[str, TapConfig],
                     suffixes: Mapping[str, Mapping[str, float]]) -> float:
    """Return the theoretical cost of an A-FAN step in baseline steps (see the module's text).

    Args:
        taps: The taps by name; those whose weights are all 0 cost nothing.
        suffixes: For each tap ``share`` and, where attack passes run, ``attack_share``.

    Example:
        >>> tap = TapConfig('backbone.layer1', 0.1, strengths=(0.5, 1.0), num_steps=3)
        >>> theoretical_cost(dict(a=tap), dict(a=dict(share=0.5, attack_share=0.25)))
        2.5
    """
    return 1 + sum(
        tap.fraction / tap.every * (len(tap.passes) * suffixes[name]['share']
                                    + num_attack_passes(tap) * suffixes[name].get('attack_share', 0.0))
        for name, tap in taps.items() if tap.active)


def num_attack_passes(tap: TapConfig) -> int:
    """Return how many passes through the suffix the attack needs beside the clean one."""
    if not tap.active or tap.direction != 'gradient':
        return 0
    return tap.num_steps - (0 if tap.random_start else 1)


def measure_step_cost(cfg: Any,
                      batches: Sequence[Any],
                      repeats: int = 9,
                      warmup: int = 2,
                      device: Any = 'cpu',
                      published: bool = True,
                      memory: bool = True,
                      process_time: bool = False) -> StepCost:
    """Measure the training step of an A-FAN config beside the same config without A-FAN.

    Args:
        cfg: A whole config; ``model``, ``data_preprocessor`` and ``optim_wrapper`` are used.
        batches: Batches of the data loader, used in turn.
        repeats: Measured rounds.
        warmup: Rounds before them.
        device: Where to train.
        published: Whether to measure the published schedule too (not possible for input taps, nor
            where processes train together).
        memory: Whether to measure peak memory too (one more step of each).
        process_time: See :class:`mmafan.analysis.timing.Clock`.

    Raises:
        ValueError: If the model of the config is not an A-FAN model.
    """
    device = torch.device(device)
    arms = {'baseline': Arm(cfg, device, afan=False), 'afan': Arm(cfg, device, afan=True)}
    taps = {name: tap for name, tap in arms['afan'].model.afan.config.taps.items() if tap.active}
    published = published and not is_distributed() and all(tap.module != INPUTS for tap in taps.values())
    rhythm = num_steps_of_rhythm(taps, len(first_of(batches[0])), arms['afan'].model.afan.norms.least_samples)
    steps: Dict[str, Callable[[Any], Any]] = {
        'baseline': arms['baseline'].train_step,
        'afan': functools.partial(_repeated, arms['afan'].train_step, rhythm),
    }
    if published:
        arm = arms['published'] = Arm(cfg, device, afan=True)
        steps['published'] = functools.partial(_published, arm)
    clock = Clock(device, process_time)
    probe = SuffixProbe(arms['baseline'].model, {n: tap.module for n, tap in taps.items()}, clock,
                        [n for n, tap in taps.items() if tap.at == 'input'])
    steps['probe'] = lambda data: probe.run(lambda: arms['baseline'].train_step(data))
    for name, tap in taps.items():
        if num_attack_passes(tap):
            steps[f'attack_{name}'] = _attack_pass(arms['afan'], name, tap, batches[0])
    rounds = time_in_turn(steps, batches, repeats, warmup, clock)
    rounds['afan'] = [value / rhythm for value in rounds['afan']]
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    suffixes = {name: dict(share=statistics.median(probe.shares[name][-repeats:]),
                           attack_share=medians.get(f'attack_{name}', 0.0) / medians['baseline'],
                           passes=float(len(tap.passes)), attack_passes=float(num_attack_passes(tap)),
                           fraction=tap.fraction) for name, tap in taps.items()}
    cost = StepCost({name: medians[name] for name in arms}, {n: rounds[n] for n in arms}, suffixes,
                    theoretical_cost(taps, suffixes))
    for name, arm in arms.items() if is_distributed() else ():
        before = dict(arm.exchanged)
        for _ in range(getattr(arm.optim_wrapper, '_accumulative_counts', 1)):
            steps[name](batches[0])
        cost.exchanged[name] = {key: (count - before[key]) // (rhythm if name == 'afan' else 1)
                                for key, count in arm.exchanged.items()}
    if memory:
        for name, arm in arms.items():
            peak = peak_memory(functools.partial(steps[name], batches[0]), device)
            cost.memory_bytes[name] = peak + resident_bytes(arm.model, arm.optim_wrapper.optimizer)
    return cost


def num_steps_of_rhythm(taps: Mapping[str, TapConfig], batch_size: int, least: int = 1) -> int:
    """Return after how many steps the numbers of samples that take part repeat, 16 at the most.

    Args:
        taps: By name.
        batch_size: Number of samples.
        least: Fewest samples of a pass.

    Example:
        >>> tap = TapConfig('backbone.layer1', 0.1, fraction=0.125)
        >>> [num_steps_of_rhythm(dict(a=tap), *sizes) for sizes in ((2, ), (16, ), (4, 1), (4, 2))]
        [4, 1, 2, 4]
    """
    chosen = [[0 if step % tap.every else num_chosen(batch_size, tap.fraction, least, step // tap.every)
               for step in range(32)] for tap in taps.values() if tap.fraction < 1 or tap.every > 1]
    return next((steps for steps in range(1, 16) if all(counts[steps:] == counts[:-steps] for counts in chosen)), 16)


def _repeated(step: Callable[[Any], Any], times: int, data: Any) -> None:
    for _ in range(times):
        step(data)


def _published(arm: Arm, data: Any) -> None:
    published_step(arm.model, data, arm.optim_wrapper)


def _attack_pass(arm: Arm, name: str, tap: TapConfig, data: Any) -> Callable[[Any], Any]:
    """Make the function that runs one attack pass of a tap, its prefix being recorded beforehand."""
    batch, run = prepare(arm.model, data, arm.optim_wrapper)
    suffix = attack_tap(arm.model, batch, name, run, tap, prefix_alone=True).suffix
    return lambda _: suffix.gradients(suffix.features)
