"""The adversarial passes of one step: gradients at a tap, perturbed features, weighted losses of the tail."""
from __future__ import annotations

import functools
from typing import Any, Callable, Iterator, List, Mapping, Optional, Sequence

import torch
from mmengine.dist import get_rank
from torch import Tensor

from ..config import TapConfig
from ..passes import Batch, PassKind, Recording, running_pass
from ..passes.attack import Attack
from ..passes.rng import derived_generator
from ..passes.tap import INPUTS
from .losses import Losses, select_losses, weight_losses
from .runtime import AFANRuntime

RunLoss = Callable[[Batch], Losses]


class AdversarialPasses:
    """Methods of :class:`mmafan.models.mixin.AFANModelMixin` that serve both schedules."""
    afan: AFANRuntime
    parse_losses: Callable[..., Any]

    def _selected_gradients(self, recording: Recording, name: str, losses: Losses) -> List[Optional[Tensor]]:
        """Gradient of the losses a tap attacks with respect to its feature, while the clean graph lives."""
        tap = self.afan.config.taps[name]
        losses = select_losses(losses, tap.losses, f'afan.taps.{name}.losses')
        total = self.parse_losses(losses)[0]
        with running_pass(PassKind.CHECK):  # what checkpointing recomputes stores nothing
            return list(torch.autograd.grad(total * self._attack_scale(recording, name),
                                            recording.captures[name].live, retain_graph=True, allow_unused=True))

    def _attack_scale(self, recording: Recording, name: str) -> float:
        """Factor that keeps half-precision gradients from vanishing; directions do not depend on it."""
        half = any(f.dtype == torch.float16 for f in recording.captures[name].features)
        return max(self.afan.grad_scale, 1024.0) if half else 1.0

    def _adversarial_losses(self, batch: Batch, recording: Recording, run: RunLoss,
                            gradients: Mapping[str, Sequence[Optional[Tensor]]]) -> Iterator[Losses]:
        """Yield the weighted, prefixed losses of every adversarial pass, one at a time."""
        runtime = self.afan
        for index, (name, tap) in enumerate(runtime.taps.items()):
            capture = recording.captures[name]
            generator = derived_generator(runtime.iteration, get_rank(), index)
            features, given, part, indices = capture.features, list(gradients[name]), batch, None
            if tap.fraction < 1:
                indices = _choose(batch.size, tap.fraction, generator)
                part = batch.select(indices)
                features = [f[indices.to(f.device)] for f in features]
                given = [None if g is None else g[indices.to(g.device)] for g in given]
            forward = functools.partial(self._tail_losses, part, recording, run, name, tap, indices)
            attack = Attack(tap, features, generator, runtime.strength_scale, capture.autocast)
            attack.run(given, functools.partial(self._gradient_at, forward, self._attack_scale(recording, name)))
            if runtime.measure:
                runtime.diagnostics[f'{name}_relative_size'] = attack.relative_size()
            runtime.count_samples(name, attack.num_skipped, tap.num_steps * sum(len(f) for f in features))
            learned = runtime.learned.factors[name] if runtime.learned is not None else None
            for k, perturbed in enumerate(attack.perturbed(learned)):
                if tap.weight[k] > 0:
                    runtime.num_passes += 1
                    losses = forward(perturbed, PassKind.ADVERSARIAL)
                    yield weight_losses(losses, tap.weight[k], f'adv_{name}_{k}.')

    def _tail_losses(self, batch: Batch, recording: Recording, run: RunLoss, name: str, tap: TapConfig,
                     indices: Optional[Tensor], features: Sequence[Tensor], kind: PassKind) -> Losses:
        """Losses of the tail for the given features at the tap."""
        if tap.module == INPUTS:
            batch = batch.with_inputs(recording.captures[name].rebuild(features, indices, recording.size)[0])
        with recording.replay(name, features, kind, self.afan.config.batch_norm, indices):
            return select_losses(run(batch), tap.losses, f'afan.taps.{name}.losses')

    def _gradient_at(self, forward: Callable[..., Losses], scale: float,
                     features: List[Tensor]) -> List[Optional[Tensor]]:
        """Gradient of the tail's losses at other features: one more pass, which leaves no trace."""
        with torch.enable_grad():
            leaves = [f.detach().requires_grad_() for f in features]
            losses = forward([leaf.clone() for leaf in leaves], PassKind.ATTACK)
            total = self.parse_losses(losses)[0] * scale
            return list(torch.autograd.grad(total, leaves, allow_unused=True))


def _choose(size: int, fraction: float, generator: torch.Generator) -> Tensor:
    """Draw ``fraction`` of the samples in ascending order; at least two, as batch statistics of one may not exist."""
    count = min(size, max(2, int(round(size * fraction))))
    return torch.randperm(size, generator=generator)[:count].sort().values
