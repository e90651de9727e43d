"""The part of a model after one tap, for one recorded batch, and the dicts of losses that it gives."""
from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch
from torch import Tensor

from ..functional import strongest_gradients
from ..replay import INPUTS, Batch, Chosen, PassKind, PassState, Recording, running_pass
from ..replay.batch import map_tensors, tensors_of
from ..tap_config import TapConfig

Losses = Dict[str, Any]
RunLoss = Callable[[Batch], Losses]
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
        self.batch, self.chosen = batch.select(chosen), chosen
        self.capture = recording.captures[name]
        self.features = [self._rows(f) for f in self.capture.features]

    def _rows(self, tensor: Tensor) -> Tensor:
        return tensor if self.chosen is None else self.chosen.rows(tensor)

    def select(self, losses: Losses) -> Losses:
        """Keep the losses of the tap that depend on it."""
        others = self.recording.facts.other_losses.get(self.name, ())
        return select_losses({k: v for k, v in losses.items() if k not in others}, self.tap.losses)

    def losses(self, features: Sequence[Tensor]) -> Losses:
        """Run an adversarial pass; losses that come before the tap, or that it does not keep, are left out."""
        return depending_losses(self.select(self.run_pass(features)))

    def run_pass(self, features: Sequence[Tensor], kind: PassKind = PassKind.ADVERSARIAL) -> Losses:
        """Run the suffix; all the model's losses."""
        batch = self.batch
        if self.tap.module == INPUTS:
            batch = batch.with_inputs(self.capture.rebuild(features, self.chosen)[0])
        state = PassState(kind, self.model.afan.config.batch_norm)
        with self.recording.replay(self.name, features, state, self.chosen):
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
        return total * scaler.scale(torch.ones_like(total, requires_grad=False)).clamp_min(HALF_SCALE)


# ---------------------------------------------------------------------- dicts of losses
def is_loss(key: str) -> bool:
    """Whether ``BaseModel.parse_losses`` adds this entry to the total."""
    return 'loss' in key


def select_losses(losses: Losses, names: Optional[Sequence[str]], where: Optional[str] = None) -> Losses:
    """Keep the loss terms with the given names (and all diagnostics); None keeps everything.

    Args:
        losses: Of the model.
        names: Names, or patterns such as ``'*loss_cls'`` (see :mod:`fnmatch`).
        where: Name of the field, to check the names. They are not checked in every step: some detectors leave a loss
            out where a batch has nothing to compute it from.

    Raises:
        ValueError: If ``where`` is given and a name matches none, with the names that are there.

    Example:
        >>> sorted(select_losses({'loss_cls': 1, 'd0.loss_cls': 2, 'd0.loss_iou': 3}, ('*loss_cls',)))
        ['d0.loss_cls', 'loss_cls']
    """
    if names is None:
        return losses
    present = [k for k in losses if is_loss(k)]
    chosen = set()
    for name in names:
        found = [k for k in present if fnmatchcase(k, name)]
        if not found and where is not None:
            raise ValueError(f'{where} names {name!r}, but the losses of the model are {present}')
        chosen.update(found)
    return {k: v for k, v in losses.items() if k in chosen or not is_loss(k)}


def loss_tensors(losses: Losses) -> List[Tensor]:
    """List the tensors of all loss terms."""
    return [t for k, v in losses.items() if is_loss(k) for t in tensors_of(v)]


def depends(losses: Losses) -> bool:
    """Whether any loss term has a gradient."""
    return any(tensor.requires_grad for tensor in loss_tensors(losses))


def depending_losses(losses: Losses) -> Losses:
    """Leave out the loss terms without a gradient: those that were computed before the tap, and replayed."""
    return {k: v for k, v in losses.items() if not is_loss(k) or depends({k: v})}


def weight_losses(losses: Losses, weight: float, prefix: str = '') -> Losses:
    """Multiply every loss term by ``weight`` and put ``prefix`` before every key.

    Example:
        >>> import torch
        >>> weight_losses({'loss': torch.tensor(2.), 'accuracy': torch.tensor(1.)}, 0.5, 'adv_a_0.')
        {'adv_a_0.loss': tensor(1.), 'adv_a_0.accuracy': tensor(1.)}
    """
    return {prefix + k: map_tensors(lambda t: t * weight, v) if is_loss(k) and weight != 1 else v
            for k, v in losses.items()}


def clean_losses(losses: Losses, weight: float) -> Losses:
    """Weight the clean losses for a sum with adversarial ones.

    A term named just ``'loss'`` becomes ``'clean_loss'``: ``parse_losses`` logs the total under that name.

    Example:
        >>> import torch
        >>> clean_losses({'loss': torch.tensor(2.)}, 0.5)
        {'clean_loss': tensor(1.)}
    """
    return {'clean_loss' if k == 'loss' else k: v for k, v in weight_losses(losses, weight).items()}


def detach_losses(losses: Losses) -> Losses:
    """Detach every entry, for logging."""
    return {k: map_tensors(Tensor.detach, v) for k, v in losses.items()}
