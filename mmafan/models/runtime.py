"""What an A-FAN model keeps between steps, outside its parameters, buffers and state dict."""
from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Set

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from ..config import AFANConfig, LearnStrengthsConfig, TapConfig
from ..passes.checkpointing import checkpointing_of_passes
from ..passes.forward_state import Place, RegionState


class LearnedStrengths:
    """One learned factor per tap on its strengths, with an SGD of its own (the authors' ``main_learnable.py``).

    They are no parameters of the model, so that its state dict stays the stock model's;
    :class:`mmafan.hooks.AdvFeatureHook` steps them and keeps them in the checkpoint.

    Args:
        config: Rate, momentum, penalty and start.
        names: Names of the taps.
    """

    def __init__(self, config: LearnStrengthsConfig, names: Any) -> None:
        self.config = config
        start = 1 / len(names) if config.init is None else config.init
        self.factors: Dict[str, Tensor] = {n: torch.tensor(float(start), requires_grad=True) for n in names}
        self._momenta: Dict[str, Tensor] = {n: torch.zeros(()) for n in names}

    def step(self, grad_scale: float = 1.0) -> None:
        """Update from the accumulated gradients, then move back to the plane ``sum w = 1``.

        Args:
            grad_scale: What the gradients have been multiplied with (the loss scale of mixed precision).
        """
        with torch.no_grad():
            for name, factor in self.factors.items():
                gradient = torch.zeros(()) if factor.grad is None else factor.grad / grad_scale
                all_reduce(gradient, op='mean')
                factor.grad = None
                if not torch.isfinite(gradient):  # mixed precision overflowed: its step is skipped too
                    continue
                momentum = self._momenta[name]
                momentum.mul_(self.config.momentum).add_(gradient + self.config.l1 * factor.sign())
                factor.sub_(momentum, alpha=self.config.lr)
            shift = (sum(self.factors.values()) - 1) / len(self.factors)
            for factor in self.factors.values():
                factor.sub_(shift)

    def state_dict(self) -> Dict[str, Dict[str, float]]:
        """Factors and momenta as plain numbers."""
        return {'factors': {n: float(v) for n, v in self.factors.items()},
                'momenta': {n: float(v) for n, v in self._momenta.items()}}

    def load_state_dict(self, state: Dict[str, Dict[str, float]]) -> None:
        """Restore what :meth:`state_dict` gave; taps it does not name keep their values."""
        for target, values in ((self.factors, state['factors']), (self._momenta, state['momenta'])):
            for name in target.keys() & values.keys():
                target[name].data.fill_(values[name])


class AFANRuntime:
    """Run-time state of an A-FAN model; the hook sets it, the model reads it.

    Attributes:
        config: The validated ``afan=dict(...)``.
        strength_scale: Factor on all strengths in [0, 1]; 0 switches A-FAN off.
        iteration: Number of the training step, the seed of the attack's own draws.
        checked: Whether the first training pass has proven the taps to work.
        changed_in_place: Names of the modules in the head whose outputs are changed in place; None: not known yet.
        changed_state: What a forward changes beside norms, which adversarial passes leave alone; None: not known yet.
        other_losses: By tap, names of the losses that do not depend on it.
        unused: By tap, names of the modules before it whose outputs adversarial passes do not read; None: not known.
        idle_calls: By tap, the watched calls its losses do not depend on; None: not known yet.
        hooked: Whether a hook is in charge.
        wrapped: Whether a wrapper of ours asks for the single-graph loss.
        measure: Whether to take measurements in this step.
        diagnostics: Latest measurements by name, each a tensor of no dimension.
        num_skipped: By tap, number of samples left unperturbed because their gradient was not finite.
        num_samples: By tap, number of samples attacked or skipped; both since the hook last looked.
        num_passes: Number of adversarial passes since the hook last looked.
        stepped: Whether a step of A-FAN ran since the hook last looked.
        num_waits: Number of steps whose batch was no proof of the taps.
        num_norms: Number of pass-aware norms the model was built with.
    """

    def __init__(self, config: AFANConfig) -> None:
        self.config = config
        self.strength_scale = 1.0
        self.iteration = 0
        self.checked = False
        self.changed_in_place: Optional[Set[str]] = None
        self.changed_state: Optional[List[Place]] = None
        self.other_losses: Dict[str, Set[str]] = {}
        self.unused: Optional[Dict[str, Set[str]]] = None
        self.idle_calls: Optional[Dict[str, Set[int]]] = None
        self.hooked = False
        self.wrapped = False
        self.grad_scale = 1.0
        self.measure = True
        self.diagnostics: Dict[str, Tensor] = {}
        self.num_skipped: Dict[str, Tensor] = {}
        self.num_samples: Dict[str, int] = {}
        self.num_passes = 0
        self.stepped = False
        self.num_waits = 0
        self.num_norms = 0
        self.norm_policies: Dict[str, str] = {}
        self.learned: Optional[LearnedStrengths] = None
        if config.learn_strengths is not None:
            active = [name for name, tap in config.taps.items() if tap.active]
            if len(active) < 2:
                raise ValueError(f'afan.learn_strengths needs at least two taps with a weight above 0, because the '
                                 f'learned factors sum to 1, got {active}')
            self.learned = LearnedStrengths(config.learn_strengths, active)
        self._inside = False

    @property
    def taps(self) -> Dict[str, TapConfig]:
        """The taps that take part in this step; empty where A-FAN is off."""
        if self.strength_scale <= 0:
            return {}
        return {name: tap for name, tap in self.config.taps.items() if tap.active}

    def count_samples(self, tap: str, num_skipped: Tensor, num_samples: int) -> None:
        """Add one attack's samples to the counts, without waiting for the device."""
        self.num_skipped[tap] = self.num_skipped[tap] + num_skipped if tap in self.num_skipped else num_skipped
        self.num_samples[tap] = self.num_samples.get(tap, 0) + num_samples

    def pop_skipped_shares(self) -> Dict[str, float]:
        """Return the share of samples skipped by tap, and begin to count anew."""
        shares = {t: float(n) / max(self.num_samples[t], 1) for t, n in self.num_skipped.items()}
        self.num_skipped, self.num_samples = {}, {}
        return shares

    @property
    def inside(self) -> bool:
        """Whether a pass of A-FAN is running: the model's loss is then the stock one."""
        return self._inside

    @contextmanager
    def entered(self, model: Optional[nn.Module] = None) -> Iterator[None]:
        """Mark the passes run inside as A-FAN's own.

        Args:
            model: The model, whose state checkpointed regions find as it was when they are recomputed.
        """
        if self._inside:
            yield
            return
        self._inside = True
        regions = None if model is None else RegionState(model, lambda: self.changed_state, bool(self.taps))
        try:
            with checkpointing_of_passes(regions):
                yield
        finally:
            self._inside = False
