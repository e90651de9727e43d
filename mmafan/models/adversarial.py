"""The adversarial passes of one step: which samples take part, perturbed features, weighted losses of the tail."""
from __future__ import annotations

import math
from typing import Any, Callable, Iterator, List, Mapping, Optional, Sequence

import torch
from mmengine.dist import get_rank
from torch import Tensor

from ..config import TapConfig
from ..layers import PassAwareNorm
from ..passes import Batch, Recording
from ..passes.attack import Attack
from ..passes.rng import derived_generator
from .losses import Losses, weight_losses
from .runtime import AFANRuntime
from .tail import RunLoss, Tail


class AdversarialPasses:
    """Methods of :class:`mmafan.models.mixin.AFANModelMixin` that serve both schedules."""
    afan: AFANRuntime
    parse_losses: Callable[..., Any]

    def _tails(self, recording: Recording, batch: Batch, run: RunLoss) -> List[Tail]:
        """Return the tails that run in this step, with the samples that take part in each."""
        runtime = self.afan
        runtime.stepped = True
        tails = []
        for index, (name, tap) in enumerate(runtime.taps.items()):
            if not any(len(feature) for feature in recording.captures[name].features):
                continue  # the batch does not come to it: no RoI, or a later stage that was left out
            indices = None
            if tap.fraction < 1:
                count = num_chosen(batch.size, tap.fraction, self._least(), runtime.iteration)
                if count == 0:
                    continue
                if count < batch.size:
                    indices = torch.randperm(batch.size, generator=self._generator(index))[:count].sort().values
            tails.append(Tail(self, recording, batch, run, name, tap, indices))
        return tails

    def _generator(self, *numbers: int) -> torch.Generator:
        return derived_generator(self.afan.iteration, get_rank(), *numbers)

    def _least(self) -> int:
        """Least number of samples a pass makes sense for: batch statistics of one may not exist."""
        trains = any(isinstance(m, PassAwareNorm) and m.training  # type: ignore[attr-defined]
                     for m in self.modules())  # type: ignore[attr-defined]
        return 2 if trains and self.afan.config.batch_norm != 'frozen' else 1

    def _adversarial_losses(self, tails: Sequence[Tail],
                            gradients: Mapping[str, Sequence[Optional[Tensor]]],
                            begin_pass: Callable[[], None] = lambda: None) -> Iterator[Losses]:
        """Yield the weighted, prefixed losses of every adversarial pass, one at a time; each begins with a call."""
        runtime = self.afan
        order = list(runtime.taps)
        for tail in tails:
            name, tap, features = tail.name, tail.tap, tail.features
            attack = Attack(tap, features, self._generator(order.index(name), 1), runtime.strength_scale,
                            tail.capture.autocast)
            attack.run(gradients.get(name), tail.gradients)
            if runtime.measure:
                runtime.diagnostics[f'{name}_relative_size'] = attack.relative_size()
            runtime.count_samples(name, attack.num_skipped, tap.num_steps * sum(len(f) for f in features))
            learned = runtime.learned.factors[name] if runtime.learned is not None else None
            rarity = rarity_of(tail.recording.size, tap, self._least())
            for k, perturbed in enumerate(attack.perturbed(learned)):
                if tap.weight[k] > 0:
                    runtime.num_passes += 1
                    begin_pass()
                    yield weight_losses(tail.losses(perturbed), tap.weight[k] * rarity, f'adv_{name}_{k}.')


def num_chosen(size: int, fraction: float, least: int, iteration: int) -> int:
    """Return how many of ``size`` samples take part in an iteration, ``size * fraction`` on the mean.

    Where that is no whole number, iterations differ in a fixed rhythm, which is the same in every process; fewer than
    ``least`` samples never take part, so that small batches sit some iterations out.

    Example:
        >>> [num_chosen(2, 0.25, 1, iteration) for iteration in range(4)]
        [0, 1, 0, 1]
        >>> [num_chosen(10, 0.25, 1, iteration) for iteration in range(4)]
        [2, 3, 2, 3]
    """
    least = min(least, size)
    wanted = size * fraction
    unit = least if wanted < least else 1
    share = wanted / unit

    def before(number: int) -> int:
        return math.floor(number * share + 1e-9)

    return unit * (before(iteration + 1) - before(iteration))


def rarity_of(size: int, tap: TapConfig, least: int) -> float:
    """Return the inverse of the share of iterations a tap takes part in: its terms count so much more in those."""
    least = min(least, size)
    return max(1.0, least / (size * tap.fraction)) if tap.fraction < 1 else 1.0
