"""From a recorded feature and its gradient to the perturbed features of every strength."""
from __future__ import annotations

from typing import Callable, Iterator, List, Optional, Sequence

import torch
from torch import Tensor

from ..functional import (ascend, draw_random_start, draw_strengths, finite_samples, mix_strength, project_l2,
                          project_linf, reinject_statistics, sample_std)
from ..tap_config import TapConfig

GradientFunction = Callable[[List[Tensor]], List[Optional[Tensor]]]


def _wide(tensor: Tensor) -> Tensor:
    """Half precision loses published step sizes to rounding: perturbations are built and added in float32."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


class Attack:
    """The attack of one tap on one batch.

    Args:
        config: The tap.
        features: Clean floating tensors of the tap, each ``(N, ...)``; not modified.
        generator: CPU generator of the attack's own random draws.
        scale: Factor in (0, 1] on the strengths, the hook's ramp.
        keep_wide: Whether the tail takes float32 where the feature has half precision (under autocast it does).

    Attributes:
        num_skipped: Number of samples left unperturbed because their gradient was not finite, a tensor of no
            dimension on the feature's device (summed over the tap's tensors).
    """

    def __init__(self, config: TapConfig, features: Sequence[Tensor], generator: torch.Generator,
                 scale: float = 1.0, keep_wide: bool = False) -> None:
        self.config = config
        self.generator = generator
        self.scale = scale
        self.clean = [_wide(f.detach()) for f in features]
        self._dtypes = [w.dtype if keep_wide else f.dtype for f, w in zip(features, self.clean)]
        self.units = [sample_std(f) if config.step_unit == 'std' else f.new_ones(())
                      for f in self.clean]
        self.adversarial: List[Tensor] = list(self.clean)
        self.num_skipped = torch.zeros((), dtype=torch.long, device=self.clean[0].device)

    def run(self, gradients: Optional[Sequence[Optional[Tensor]]], gradient_at: GradientFunction) -> None:
        """Take all steps; the result is in :attr:`adversarial`.

        Args:
            gradients: ``dL/df`` at the clean features, or None; saves the first evaluation.
            gradient_at: Evaluates the gradients at other features (a further pass through the tail).
        """
        config = self.config
        if config.direction == 'random_sign':
            gradients = [torch.randn(f.shape, generator=self.generator).to(f) for f in self.clean]
        if config.random_start and config.radius is not None:
            radii = [unit * config.radius for unit in self.units]
            self.adversarial = [f + draw_random_start(f, radius, config.norm, self.generator)
                                for f, radius in zip(self.clean, radii)]
            gradients = None
        for step in range(config.num_steps):
            if config.direction != 'random_sign' and (step or gradients is None):
                gradients = gradient_at([f.to(dtype) for f, dtype in zip(self.adversarial, self._dtypes)])
            self._step(gradients or [], moved_before=step > 0 or config.random_start)

    def _step(self, gradients: Sequence[Optional[Tensor]], moved_before: bool) -> None:
        config = self.config
        project = project_linf if config.norm == 'linf' else project_l2
        moved = []
        for clean, current, gradient, unit in zip(self.clean, self.adversarial, gradients, self.units):
            if gradient is None:  # this tensor does not reach the loss
                moved.append(current)
                continue
            finite = finite_samples(gradient)
            self.num_skipped = self.num_skipped + (~finite).sum()
            new = ascend(current, _wide(gradient), unit * config.step_size, config.norm)
            if config.radius is not None:
                new = clean + project(new - clean, unit * config.radius)
            if config.clamp is not None:
                new = new.clamp(*config.clamp)
            if moved_before:  # a sample that cannot be attacked is not perturbed at all
                new = torch.where(finite.reshape(-1, *([1] * (new.dim() - 1))), new, clean)
            moved.append(new)
        self.adversarial = moved

    def perturbed(self, learned: Optional[Tensor] = None) -> Iterator[List[Tensor]]:
        """Make the features of the adversarial passes, each only when asked for.

        Args:
            learned: A learned factor on the strengths, a tensor of no dimension that may require grad.

        Yields:
            For each pass one list with a tensor for each of the tap's tensors. Passes are in the order of the
            configured strengths; with ``strength_sampling='random'`` there is one.
        """
        config = self.config

        def factor() -> float | Tensor:  # anew for each pass: its backward frees the graph
            return self.scale if learned is None else self.scale * learned

        if config.strength_sampling == 'all':
            for strength, reinject in zip(config.strengths, config.reinject):
                yield [self._strength(i, factor(), strength, reinject) for i in range(len(self.clean))]
            return
        choices = draw_strengths(config.strengths, self.clean[0].shape[0], self.generator)
        yield [self._random_strength(i, factor(), choices) for i in range(len(self.clean))]

    def _strength(self, index: int, factor: float | Tensor, strength: float | Tensor, reinject: bool) -> Tensor:
        config, clean = self.config, self.clean[index]
        mixed = mix_strength(clean, self.adversarial[index], factor * strength)
        if reinject:
            mixed = reinject_statistics(clean, mixed, config.moments, num_groups=config.num_groups,
                                        channel_dim=config.channel_dim)
        return mixed.to(self._dtypes[index])

    def _random_strength(self, index: int, factor: float | Tensor, choices: Tensor) -> Tensor:
        config, clean = self.config, self.clean[index]
        if clean.shape[0] != choices.shape[0]:
            raise ValueError(f"{config.where}.strength_sampling must be 'all' for {config.module!r}, got 'random': its "
                             f'tensors have {choices.shape[0]} and {clean.shape[0]} samples')
        shape = (-1, *([1] * (clean.dim() - 1)))
        strengths = torch.tensor(config.strengths, dtype=clean.dtype)[choices].to(clean.device).reshape(shape)
        additive = self._strength(index, factor, strengths, reinject=False)
        if not any(config.reinject):
            return additive
        reinjected = self._strength(index, factor, strengths, reinject=True)
        mask = torch.tensor(config.reinject)[choices].to(clean.device).reshape(shape)
        return torch.where(mask, reinjected, additive)

    def relative_size(self) -> Tensor:
        """Root mean square of the full perturbation over the deviation of the clean feature (no unit)."""
        change = sum((a - c).square().sum() for a, c in zip(self.adversarial, self.clean))
        spread = sum((c - c.mean()).square().sum() for c in self.clean)
        return (torch.as_tensor(change) / torch.as_tensor(spread).clamp_min(1e-30)).sqrt()
