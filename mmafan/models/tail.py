"""The part of a model after one tap, for one recorded batch: its losses and gradients at other features."""
from __future__ import annotations

from typing import Any, Callable, List, Optional, Sequence

import torch
from torch import Tensor

from ..config import TapConfig
from ..functional import strongest_gradients
from ..passes import Batch, PassKind, Recording, running_pass
from ..passes.tap import INPUTS
from .losses import Losses, depending_losses, depends, select_losses

RunLoss = Callable[[Batch], Losses]


class Tail:
    """What an attack and its adversarial passes evaluate.

    Args:
        model: The A-FAN model.
        recording: The clean pass of the batch.
        batch: The whole batch.
        run: Gives the stock losses of a batch.
        name: Name of the tap.
        tap: The tap; None: as the model has it.
        indices: The samples that take part, a long tensor ``(M,)`` on the CPU; None: all.
    """

    def __init__(self, model: Any, recording: Recording, batch: Batch, run: RunLoss, name: str,
                 tap: Optional[TapConfig] = None, indices: Optional[Tensor] = None) -> None:
        self.model, self.recording, self.run, self.name = model, recording, run, name
        self.tap: TapConfig = model.afan.config.taps[name] if tap is None else tap
        self.batch = batch if indices is None else batch.select(indices)
        self.indices = indices
        self.capture = recording.captures[name]
        half = any(f.dtype == torch.float16 for f in self.capture.features)
        # Keeps half-precision gradients from vanishing; the directions of an attack do not depend on it.
        self._scale = max(model.afan.grad_scale, 1024.0) if half else 1.0

    @property
    def features(self) -> List[Tensor]:
        """The clean features of the samples that take part, detached."""
        return [self._part(f) for f in self.capture.features]

    def _part(self, tensor: Tensor) -> Tensor:
        return tensor if self.indices is None else tensor[self.indices.to(tensor.device)]

    def select(self, losses: Losses) -> Losses:
        """Keep the losses of the tap that depend on it."""
        others = self.model.afan.other_losses.get(self.name, ())
        return select_losses({k: v for k, v in losses.items() if k not in others}, self.tap.losses)

    def losses(self, features: Sequence[Tensor], kind: PassKind = PassKind.ADVERSARIAL) -> Losses:
        """Run the tail; losses that come before the tap, or that it does not keep, are left out."""
        return depending_losses(self.select(self._run(features, kind)))

    def _run(self, features: Sequence[Tensor], kind: PassKind) -> Losses:
        batch = self.batch
        if self.tap.module == INPUTS:
            batch = batch.with_inputs(self.capture.rebuild(features, self.indices, self.recording.size)[0])
        with self.recording.replay(self.name, features, kind, self.model.afan.config.batch_norm, self.indices):
            return self.run(batch)

    def gradients(self, features: Sequence[Tensor]) -> List[Optional[Tensor]]:
        """Gradients the attack follows at other features: one more pass, which leaves no trace."""
        with torch.enable_grad():
            leaves = [f.detach().requires_grad_() for f in features]
            return self._attack_gradients(self._run([leaf.clone() for leaf in leaves], PassKind.ATTACK), leaves)

    def clean_gradients(self, losses: Losses) -> List[Optional[Tensor]]:
        """Gradients the attack follows at the clean features, from the clean losses while their graph lives."""
        return [None if g is None else self._part(g) for g in self._attack_gradients(losses, self.capture.live)]

    def backward_gradients(self) -> List[Optional[Tensor]]:
        """The gradients that the clean backward has left at the clean features."""
        return [None if g is None else self._part(g) for g in self.capture.gradients]

    def _attack_gradients(self, losses: Losses, tensors: Sequence[Tensor]) -> List[Optional[Tensor]]:

        def gradients(chosen: Losses) -> List[Optional[Tensor]]:
            if not depends(chosen):
                return [None for _ in tensors]
            total = self.model.parse_losses(chosen)[0] * self._scale
            with running_pass(PassKind.CHECK):  # what checkpointing recomputes stores nothing
                return list(torch.autograd.grad(total, tensors, retain_graph=True, allow_unused=True))

        groups = [gradients(select_losses(losses, names)) for names in self.tap.attack_losses or ()]
        if len(groups) == 1:
            return groups[0]
        total = gradients(self.select(losses))
        return strongest_gradients(groups, total, self.tap.norm) if groups else total
