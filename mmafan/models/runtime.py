"""What an A-FAN model keeps between steps, outside its parameters, buffers and state dict, by how long it lives."""
from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, FrozenSet, Iterable, Iterator, Optional, Set, Tuple

import torch
from mmengine.dist import all_reduce
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils import checkpoint as torch_checkpoint

from ..config import AFANConfig, LearnStrengthsConfig, TapConfig
from ..replay import INPUTS, Batch, Facts, PassKind, current_pass
from ..replay.batch import REST, Path
from ..replay.checkpointing import WAYS, Regions
from ..replay.state import replaced
from ..replay.tree import Contents
from .codebase import Codebase
from .joined import WaitingSamples
from .losses import named
from .norms import ModelNorms


@dataclass
class Controls:
    """What whoever trains sets before a step; :class:`mmafan.hooks.AdvFeatureHook` does.

    Attributes:
        strength_scale: Factor on all strengths in [0, 1]; 0 switches A-FAN off.
        iteration: Number of the training step, the seed of the attack's own draws.
        measure: Whether to take measurements in this step.
        hooked: Whether a hook is in charge.
        loss_scaler: Of mixed precision, where there is one.
    """
    strength_scale: float = 1.0
    iteration: int = 0
    measure: bool = True
    hooked: bool = False
    loss_scaler: Any = None

    def __getstate__(self) -> Dict[str, Any]:
        return {**vars(self), 'loss_scaler': None}  # which refuses to be copied in the middle of a step


@dataclass
class Meters:
    """What steps report.

    Attributes:
        diagnostics: Latest measurements by name, each a tensor of no dimension.
        num_skipped: By tap, number of samples left unperturbed because their gradient was not finite.
        num_samples: By tap, number of samples attacked or skipped; both since the shares were last taken.
        num_idle: By tap and reason, number of steps in which there was nothing to perturb; since then, too.
        frozen: Whether no tap had a gradient in the last step, which was the stock model's.
        stepped: Whether a step of A-FAN ran since this was last reset.
    """
    diagnostics: Dict[str, Tensor] = field(default_factory=dict)
    num_skipped: Dict[str, Tensor] = field(default_factory=dict)
    num_samples: Dict[str, int] = field(default_factory=dict)
    num_idle: Dict[Tuple[str, str], int] = field(default_factory=dict)
    frozen: bool = False
    stepped: bool = False

    def count_samples(self, tap: str, num_skipped: Tensor, num_samples: int) -> None:
        """Add one attack's samples to the counts, without waiting for the device."""
        self.num_skipped[tap] = self.num_skipped[tap] + num_skipped if tap in self.num_skipped else num_skipped
        self.num_samples[tap] = self.num_samples.get(tap, 0) + num_samples

    def count_idle(self, tap: str, reason: str) -> None:
        """Count a step in which a tap has nothing to perturb, or to train."""
        self.num_idle[tap, reason] = self.num_idle.get((tap, reason), 0) + 1

    def pop_idle_shares(self, num_steps: int) -> Dict[str, float]:
        """Return the share of steps in which a tap had nothing to perturb, by tap and reason; begin to count anew."""
        shares = {f'{tap}_{reason.replace(" ", "_")}_share': min(count / max(num_steps, 1), 1.0)
                  for (tap, reason), count in self.num_idle.items()}
        self.num_idle = dict.fromkeys(self.num_idle, 0)
        return shares

    def pop_skipped_shares(self) -> Dict[str, float]:
        """Return the share of samples skipped by tap, and begin to count anew."""
        shares = {t: float(n) / max(self.num_samples[t], 1) for t, n in self.num_skipped.items()}
        self.num_skipped, self.num_samples = {}, {}
        return shares


class LearnedStrengths:
    """One learned factor per tap on its strengths, with an SGD of its own (the authors' ``main_learnable.py``).

    They are no parameters of the model, so that its state dict stays the stock model's;
    :class:`mmafan.hooks.AdvFeatureHook` steps them and keeps them in the checkpoint.

    Args:
        config: Rate, momentum, penalty and start.
        names: Names of the taps.

    Raises:
        ValueError: For fewer than two taps.
    """

    def __init__(self, config: LearnStrengthsConfig, names: Iterable[str]) -> None:
        names = list(names)
        if len(names) < 2:
            raise ValueError(f'afan.learn_strengths needs at least two taps with a weight above 0, because the '
                             f'learned factors sum to 1, got {names}')
        self.config = config
        start = 1 / len(names) if config.init is None else config.init
        self.factors: Dict[str, Tensor] = {n: torch.tensor(float(start), requires_grad=True) for n in names}
        self._momenta: Dict[str, Tensor] = {n: torch.zeros(()) for n in names}

    def factor_on(self, name: str, device: torch.device) -> Tensor:
        """Return the factor of a tap; from then on it lives on the device."""
        if self.factors[name].device != device:
            self.factors[name] = self.factors[name].detach().to(device).requires_grad_()
            self._momenta[name] = self._momenta[name].to(device)
        return self.factors[name]

    def step(self, grad_scale: float | Tensor = 1.0) -> None:
        """Update from the accumulated gradients, then move back to the plane ``sum w = 1``.

        Args:
            grad_scale: What the gradients have been multiplied with (the loss scale of mixed precision).
        """
        with torch.no_grad():
            for name, factor in self.factors.items():
                gradient = torch.zeros_like(factor) if factor.grad is None else factor.grad / grad_scale
                all_reduce(gradient, op='mean')
                factor.grad = None
                finite = torch.isfinite(gradient)  # mixed precision overflowed: its step is skipped too
                old = self._momenta[name]
                new = old * self.config.momentum + gradient + self.config.l1 * factor.sign()
                self._momenta[name] = torch.where(finite, new, old)
                factor.sub_(torch.where(finite, new * self.config.lr, torch.zeros_like(new)))
            shift = (sum(self.factors.values()) - 1) / len(self.factors)
            for factor in self.factors.values():
                factor.sub_(shift)

    def state_dict(self) -> Dict[str, Dict[str, float]]:
        """Factors and momenta as plain numbers."""
        return {'factors': {n: float(v.detach()) for n, v in self.factors.items()},
                'momenta': {n: float(v) for n, v in self._momenta.items()}}

    def load_state_dict(self, state: Dict[str, Dict[str, float]]) -> None:
        """Restore what :meth:`state_dict` gave; taps it does not name keep their values."""
        for target, values in ((self.factors, state['factors']), (self._momenta, state['momenta'])):
            for name in target.keys() & values.keys():
                target[name].data.fill_(values[name])


class AFANRuntime:
    """Run-time state of an A-FAN model.

    Attributes:
        config: The validated ``afan=dict(...)``.
        norms: The model's batch norms.
        codebase: What is particular to the codebase of the stock model.
        controls: See :class:`Controls`.
        facts: What the first step has shown; None as long as none has proven the taps to work.
        num_waits: Number of steps whose batch was no proof of the taps.
        meters: See :class:`Meters`.
        learned: Learned strengths, where the config asks for them.
        batch_changes: What a forward changes in its batch; None as long as none has run.
        batch_is_lost: Whether the latest clean pass changed a tensor of its batch and no copy is there.
        per_sample: Where the samples of a doubtful batch have rows or items; None: no batch has been one.
        has_own_sum: Whether the stock model has a ``parse_losses`` of its own.
        inside: Whether a pass of A-FAN is running: the model's loss is then the stock one.
        wrapped: Whether a wrapper of ours asks for the single-graph loss.
        waiting: What a step of the joined schedule leaves to the next one.
    """

    def __init__(self, config: AFANConfig, norms: ModelNorms, codebase: Codebase = Codebase()) -> None:
        self.config, self.norms, self.codebase = config, norms, codebase
        self.controls = Controls()
        self.facts: Optional[Facts] = None
        self.num_waits = 0
        self.meters = Meters()
        self.learned: Optional[LearnedStrengths] = None
        if config.learn_strengths is not None:
            self.learned = LearnedStrengths(config.learn_strengths, [n for n, tap in config.taps.items() if tap.active])
        self.batch_changes: Optional[FrozenSet[str]] = None
        self.per_sample: Optional[FrozenSet[Path]] = None
        self.has_own_sum = self.batch_is_lost = self.inside = self.wrapped = False
        self.waiting = WaitingSamples()
        self._said: Set[str] = set()

    @property
    def taps(self) -> Dict[str, TapConfig]:
        """The taps that take part in this step; empty where A-FAN is off."""
        if self.controls.strength_scale <= 0:
            return {}
        return {name: tap for name, tap in self.config.taps.items()
                if tap.active and not self.controls.iteration % tap.every}

    @property
    def is_on(self) -> bool:
        """Whether A-FAN is on, be it that no tap takes part in this step."""
        return self.controls.strength_scale > 0 and any(tap.active for tap in self.config.taps.values())

    def run(self, model: nn.Module, batch: Batch, function: Callable[..., Any]) -> Any:
        """Run a pass: call a function that gives the stock losses, on a batch of its own where passes change it.

        Args:
            model: The model.
            batch: Is left as it was.
            function: Takes the batch's arguments.
        """
        is_clean, known = current_pass().kind is PassKind.CLEAN, self.batch_changes
        own = batch.own(known)
        contents = Contents((own.args, own.kwargs), self.controls.iteration) if is_clean and own is batch else None
        with self.entered(model):
            losses = function(*own.args, **own.kwargs)
        if known is None:
            self.batch_changes = batch.changes(own)
        if is_clean:
            self.batch_is_lost = contents is not None and not self._is_intact(contents)
        return named(losses) if self.has_own_sum and isinstance(losses, dict) else losses

    def _is_intact(self, contents: Contents) -> bool:
        """Whether a batch is, or is again, as it was: the first forward left its own alone, another one may not."""
        found = contents.put_back()
        if found is None:
            return True
        self.batch_changes = frozenset((INPUTS, REST))
        lost = '' if found else 'this step has no adversarial pass, and '
        self.say_once(f'the forward changes its batch in place in this step, which it did not in the first one: '
                      f'{lost}from now on every pass gets a copy')
        return found

    def say_once(self, text: str) -> None:
        """Warn, if the same has not been said of this model."""
        if text not in self._said:
            self._said.add(text)
            print_log(text, logger='current', level=logging.WARNING)

    @contextmanager
    def entered(self, model: nn.Module) -> Iterator[None]:
        """Mark the passes run inside as A-FAN's own; regions recomputed later find the model as it is now."""
        if self.inside:
            yield
            return
        self.inside = True
        places = None if self.facts is None else self.facts.changed_state
        try:
            with replaced(torch_checkpoint, dict.fromkeys(WAYS, Regions(model, places, bool(self.taps)))):
                yield
        finally:
            self.inside = False
