"""The attack at one tap on one batch: the suffix that it evaluates, and the perturbed features of every pass."""
from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..functional import (ascend, draw_random_start, draw_strengths, finite_samples, mix_strength, normalize_feature,
                          per_sample, project_l2, project_linf, reinject_statistics, sample_std, strongest_gradients)
from ..replay import INPUTS, Batch, Chosen, PassKind, PassState, Recording, Replay, running_pass
from ..replay.batch import upload
from ..replay.rng import generator_beside
from ..tap_config import PassConfig, TapConfig
from .losses import Losses, depending_losses, depends, keep_losses, select_losses

RunLoss = Callable[[Batch], Losses]
GradientFunction = Callable[[List[Tensor]], List[Optional[Tensor]]]
HALF_SCALE = 1024.0


class Suffix:
    """What an attack and its adversarial passes evaluate.

    Args:
        model: The A-FAN model.
        recording: The clean pass of the batch.
        batch: The whole batch.
        run: Gives the stock losses of a batch.
        name: Name of the tap.
        tap: The tap.
        chosen: The samples that take part; None: all.
    """

    def __init__(self, model: Any, recording: Recording, batch: Batch, run: RunLoss, name: str, tap: TapConfig,
                 chosen: Optional[Chosen] = None) -> None:
        self.model, self.recording, self.run, self.name, self.tap = model, recording, run, name, tap
        self.batch, self.chosen = batch.select(chosen, model.afan.per_sample), chosen
        self.capture = recording.captures[name]
        self.features = [self._rows(f) for f in self.capture.features]

    def _rows(self, tensor: Tensor) -> Tensor:
        return tensor if self.chosen is None else self.chosen.rows(tensor)

    def select(self, losses: Losses) -> Losses:
        """Keep the losses of the tap that depend on it."""
        others = self.recording.facts.other_losses.get(self.name, ())
        return select_losses(keep_losses(losses, lambda key: key not in others), self.tap.losses)

    def losses(self, features: Sequence[Tensor]) -> Losses:
        """Run an adversarial pass; losses that come before the tap, or that it does not keep, are left out."""
        return depending_losses(self.select(self.run_pass(features)))

    def run_pass(self, features: Sequence[Tensor], kind: PassKind = PassKind.ADVERSARIAL) -> Losses:
        """Run the suffix; all the model's losses."""
        batch = self.batch
        if self.tap.module == INPUTS:
            batch = batch.with_inputs(self.capture.rebuild(features, self.chosen)[0])
        state = PassState(kind, self.model.afan.config.batch_norm)
        with Replay(self.recording, self.name, features, state, self.chosen):
            return self.run(batch)

    def gradients(self, features: Sequence[Tensor]) -> List[Optional[Tensor]]:
        """Gradients the attack follows at other features: one more pass, which leaves no trace."""
        with torch.enable_grad():
            leaves = [f.detach().requires_grad_() for f in features]
            return self._attack_gradients(self.run_pass([leaf.clone() for leaf in leaves], PassKind.ATTACK), leaves)

    def clean_gradients(self, losses: Losses) -> List[Optional[Tensor]]:
        """Gradients the attack follows at the clean features, from the clean losses while their graph lives."""
        return [None if g is None else self._rows(g) for g in self._attack_gradients(losses, self.capture.live)]

    def backward_gradients(self) -> List[Optional[Tensor]]:
        """The gradients that the clean backward has left at the clean features."""
        return [None if g is None else self._rows(g) for g in self.capture.gradients]

    def _attack_gradients(self, losses: Losses, tensors: Sequence[Tensor]) -> List[Optional[Tensor]]:

        def gradients(chosen: Losses) -> List[Optional[Tensor]]:
            if not depends(chosen):
                return [None for _ in tensors]
            total = self._scaled(self.model.parse_losses(chosen)[0])
            with running_pass(PassKind.CHECK):  # what checkpointing recomputes stores nothing
                return list(torch.autograd.grad(total, tensors, retain_graph=True, allow_unused=True))

        groups = [gradients(select_losses(losses, names)) for names in self.tap.attack_losses or ()]
        if len(groups) == 1:
            return groups[0]
        total = gradients(self.select(losses))
        return strongest_gradients(groups, total, self.tap.norm) if groups else total

    def _scaled(self, total: Tensor) -> Tensor:
        """Keep gradients in float16 from vanishing; the directions of an attack do not depend on the factor."""
        if not any(f.dtype == torch.float16 for f in self.features):
            return total
        scaler = self.model.afan.controls.loss_scaler
        if scaler is None:
            return total * HALF_SCALE
        return total * scaler.scale(torch.ones_like(total)).clamp_min(HALF_SCALE)


def _wide(tensor: Tensor) -> Tensor:
    """Half precision loses published step sizes to rounding: perturbations are built and added in float32."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


class Attack:
    """The attack of one tap on one batch.

    What it draws on the host is on its way to the device as soon as it is made, before the clean backward runs.

    Args:
        config: The tap.
        features: Clean floating tensors of the tap, each ``(N, ...)``; not modified.
        generator: CPU generator of the attack's own random draws.
        scale: Factor in (0, 1] on the strengths.
        keep_wide: Whether the suffix takes float32 where the feature has half precision (under autocast it does).

    Attributes:
        clean: The features, in float32 or wider.
        adversarial: The fully perturbed ones, after :meth:`run`.
    """

    def __init__(self, config: TapConfig, features: Sequence[Tensor], generator: torch.Generator,
                 scale: float = 1.0, keep_wide: bool = False) -> None:
        self.config, self.scale = config, scale
        self.clean = [_wide(f.detach()) for f in features]
        self._dtypes = [w.dtype if keep_wide else f.dtype for f, w in zip(features, self.clean)]
        self.adversarial: List[Tensor] = list(self.clean)
        self._finite: List[Tensor] = []
        self._normalized: Dict[int, Tensor] = {}
        self._moments = (config.moments, 1e-5, config.num_groups, config.channel_dim)
        if config.strength_sampling == 'random':
            self._draw(generator)
        self._noise = generator_beside(generator, self.clean[0].device)

    def _draw(self, generator: torch.Generator) -> None:
        """Draw a strength for each sample; note the samples whose statistics are re-injected."""
        config, first = self.config, self.clean[0]
        for feature in self.clean:
            if len(feature) != len(first):
                raise ValueError(f"{config.where}.strength_sampling must be 'all' for {config.module!r}, got "
                                 f"'random': its tensors have {len(first)} and {len(feature)} samples")
        choices = draw_strengths(config.strengths, len(first), generator).tolist()
        self._strengths = upload(torch.tensor([config.strengths[k] for k in choices], dtype=first.dtype), first.device)
        mixed = [number for number, k in enumerate(choices) if config.reinject[k]]
        self._reinjected = Chosen(torch.tensor(mixed, dtype=torch.long), len(first))
        self._reinjected.on(first.device)

    def run(self, gradients: Optional[Sequence[Optional[Tensor]]], gradient_at: GradientFunction) -> None:
        """Take all steps; the result is in :attr:`adversarial`.

        Args:
            gradients: ``dL/df`` at the clean features, or None; saves the first evaluation.
            gradient_at: Evaluates the gradients at other features (a further pass through the suffix).
        """
        config = self.config
        self._units = [sample_std(f) if config.step_unit == 'std' else 1.0 for f in self.clean]
        if config.direction == 'random_sign':
            gradients = [torch.randn(f.shape, generator=self._noise, device=f.device) for f in self.clean]
        if config.random_start and config.radius is not None:
            self.adversarial = [f + draw_random_start(f, unit * config.radius, config.norm, self._noise)
                                for f, unit in zip(self.clean, self._units)]
            gradients = None
        for step in range(config.num_steps):
            if config.direction != 'random_sign' and (step or gradients is None):
                gradients = gradient_at([f.to(dtype) for f, dtype in zip(self.adversarial, self._dtypes)])
            self._step(gradients or [], moved_before=step > 0 or config.random_start)

    def _step(self, gradients: Sequence[Optional[Tensor]], moved_before: bool) -> None:
        """Ascend: ``f_adv <- project(f_adv + step_size * direction(g))``."""
        config = self.config
        project = project_linf if config.norm == 'linf' else project_l2
        for index, (clean, gradient, unit) in enumerate(zip(self.clean, gradients, self._units)):
            if gradient is None:  # this tensor does not reach the loss
                continue
            gradient = _wide(gradient)
            finite = finite_samples(gradient)
            self._finite.append(finite)
            new = ascend(self.adversarial[index], gradient, unit * config.step_size, config.norm, finite)
            if config.radius is not None:
                new = clean + project(new - clean, unit * config.radius)
            if config.clamp is not None:
                new = new.clamp(*config.clamp)
            if moved_before or config.clamp is not None:  # a sample that cannot be attacked is not perturbed at all
                new = torch.where(per_sample(finite, new), new, clean)
            self.adversarial[index] = new

    @property
    def num_skipped(self) -> Tensor:
        """Number of samples left unperturbed because their gradient was not finite, over all steps and tensors."""
        skipped = [(~finite).sum() for finite in self._finite]
        return sum(skipped[1:], skipped[0]) if skipped else self.clean[0].new_zeros((), dtype=torch.long)

    def passes(self, learned: Optional[Tensor] = None) -> Iterator[Tuple[PassConfig, List[Tensor]]]:
        """Make the features of the adversarial passes, each only when asked for.

        Args:
            learned: A learned factor on the strengths, a tensor of no dimension that may require grad.

        Yields:
            Each pass with a list of one tensor for each of the tap's.
        """
        for wanted in self.config.passes:
            # The factor is multiplied anew for each pass: its backward frees the graph.
            factor = self.scale if learned is None else self.scale * learned
            yield wanted, [self._mixed(i, wanted, factor) for i in range(len(self.clean))]

    def _mixed(self, index: int, wanted: PassConfig, factor: float | Tensor) -> Tensor:
        """``f_i = f + s_i (f_adv - f)``, with the statistics re-injected where they are wanted."""
        clean, adversarial = self.clean[index], self.adversarial[index]
        drawn = wanted.strength is None
        strength = factor * (per_sample(self._strengths, clean) if wanted.strength is None else wanted.strength)
        if isinstance(strength, Tensor):
            strength = strength.to(clean.dtype)
        mixed = mix_strength(clean, adversarial, strength)
        if wanted.reinject or drawn and len(self._reinjected.numbers) == len(clean):
            mixed = self._reinject(index, mixed)
        elif drawn and self._reinjected.numbers:
            mixed = self._reinject_rows(index, mixed)
        return mixed.to(self._dtypes[index])

    def _reinject(self, index: int, mixed: Tensor) -> Tensor:
        """``f_mix_i = sigma(f_i) (f - mu(f)) / sigma(f) + mu(f_i)``; the clean part serves every strength."""
        clean = self.clean[index]
        if index not in self._normalized:
            self._normalized[index] = normalize_feature(clean, *self._moments)
        return reinject_statistics(clean, mixed, *self._moments, self._normalized[index])

    def _reinject_rows(self, index: int, mixed: Tensor) -> Tensor:
        """Re-inject the statistics of the samples that have drawn it; those of a batch come from all samples."""
        rows = self._reinjected
        if self.config.moments == 'batch':
            made = rows.rows(self._reinject(index, mixed))
        else:
            made = reinject_statistics(rows.rows(self.clean[index]), rows.rows(mixed), *self._moments)
        return mixed.index_copy(0, rows.on(mixed.device), made)

    def relative_size(self) -> Tensor:
        """Root mean square of the full perturbation over the standard deviation of the clean feature (no unit)."""
        change = sum((a - c).square().sum() for a, c in zip(self.adversarial, self.clean))
        spread = sum((c - c.mean()).square().sum() for c in self.clean)
        return (torch.as_tensor(change) / torch.as_tensor(spread).clamp_min(1e-30)).sqrt()
