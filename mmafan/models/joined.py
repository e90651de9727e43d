"""The joined schedule: the perturbed features of one step run with the clean features of the next one.

One forward and one backward a step: the gradient that comes to a tap gives the perturbation of its samples, which then
wait. In the next step each module of the suffix runs once, for the clean features of that step and for those that have
waited.
"""
from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Sequence, Tuple

from mmengine.dist import is_distributed
from torch import nn

from ..config import AFANConfig
from ..replay import Batch, PassKind, Recording
from ..replay.joining import Meetings
from ..replay.lockstep import Lockstep
from .attack import Attack, RunLoss, Suffix
from .first_step import all_agree
from .losses import Losses, depends, keep_losses, select_losses, weight_losses
from .step import Part, Step


class WaitingSamples:
    """What a step leaves to the next one; no copy of a model has it, nor has a checkpoint.

    Attributes:
        attacks: Of each tap, what comes after it and the attack that still lacks its gradient.
        meetings: Which modules are known to run for several passes at once.
    """

    def __init__(self) -> None:
        self.attacks: List[Tuple[Suffix, Attack]] = []
        self.meetings = Meetings()

    def take(self) -> List[Tuple[Suffix, Attack]]:
        """Return what waits; nothing waits afterwards."""
        taken, self.attacks = self.attacks, []
        return taken

    def __getstate__(self) -> Dict[str, Any]:
        return {'attacks': [], 'meetings': self.meetings}


class JoinedStep(Step):
    """A step whose adversarial losses are those of the samples that wait."""

    def __init__(self, model: Any, batch: Batch, run: RunLoss) -> None:
        super().__init__(model, batch, run)
        self._passes: List[Callable[[], Losses]] = []
        self._recordings: List[Recording] = []
        self._taps: List[str] = []  # of the passes
        self._adversarial: List[Losses] = []

    def parts(self, keeps_graph: bool = True) -> Iterator[Part]:
        """Yield ``L_clean`` of this batch, then ``L(suffix(f_i), y)`` of what has waited, all in one graph."""
        waiting, known = self.afan.waiting, self.afan.facts is not None
        taken = waiting.take()
        self._recordings = [suffix.recording for suffix, _ in taken]
        self._passes = self._passes_of(taken)
        del taken  # features that nothing reads any more
        recording, losses = self.clean_pass()
        yield Part(functools.partial(weight_losses, losses, self._clean_weight(recording, bool(self._adversarial))))
        for tap, others in zip(self._taps, self._adversarial):
            yield Part(functools.partial(self._decided, tap, others), PassKind.ADVERSARIAL)
        self.afan.meters.stepped = True
        if self.afan.facts is not None:
            if not known:
                check_kept_losses(self.afan.config, self.afan.facts.other_losses, losses)
                for capture in recording.captures.values():  # of the check
                    capture.gradients[:] = [None for _ in capture.gradients]
            waiting.attacks = self._attacks(recording)
        recording.release_graph()
        yield Part(dict, is_last=True)
        self.afan.controls.iteration += 1

    def _passes_of(self, taken: Sequence[Tuple[Suffix, Attack]]) -> List[Callable[[], Losses]]:
        """Perturb what waits, now that the backward has left its gradients."""
        passes: List[Callable[[], Losses]] = []
        for suffix, attack in taken:
            gradients = suffix.backward_gradients()
            if suffix.tap.starts_clean and all(gradient is None for gradient in gradients):
                continue  # there was no backward
            attack.run(gradients, suffix.gradients)
            self._measure(suffix, attack)
            suffix.run, suffix.features = self.run, []
            suffix.capture.keep_rows(suffix.chosen)
            suffix.recording.state = {}  # its passes run beside another one, which must not find it,
            suffix.recording.facts = replace(suffix.recording.facts, until={})  # nor parameters without gradient
            passes += [functools.partial(self._adversarial_losses, suffix, wanted, perturbed)
                       for wanted, perturbed in attack.passes()]
            self._taps += [suffix.name] * (len(passes) - len(self._taps))
        return passes

    def _decided(self, tap: str, losses: Losses) -> Losses:
        """Leave out losses that are new in this step and do not depend on the tap, as its clean pass has shown."""
        others = {} if self.afan.facts is None else self.afan.facts.other_losses
        return keep_losses(losses, lambda key: key.partition('.')[2] not in others.get(tap, ()))

    def _run_clean(self, recording: Recording, batch: Batch) -> Losses:
        """Run the clean forward, and those of the samples that wait in step with it."""
        if not self._passes:
            return self.run(batch)
        lockstep = Lockstep(self.model, recording, self.afan.waiting.meetings, self.afan.config.batch_norm,
                            _agreed if _norms_wait(self.model) else bool)
        for waiting in self._recordings:
            waiting.make_patches = lockstep.patches
        with self.afan.entered(self.model):
            losses, self._adversarial = lockstep.run(functools.partial(self.run, batch), self._passes)
        return losses


def check_kept_losses(config: AFANConfig, others: Mapping[str, Iterable[str]], losses: Losses) -> None:
    """Check that the joined backward gives the gradient that each attack follows.

    Args:
        config: The taps.
        others: By tap, the losses that do not depend on it.
        losses: Of a clean pass.

    Raises:
        ValueError: Where a tap keeps some of the losses that depend on it.
    """
    for name, tap in config.taps.items():
        own = {key: value for key, value in losses.items() if key not in others.get(name, ()) and depends({key: value})}
        left_out = sorted(own.keys() - select_losses(own, tap.losses).keys())
        if left_out:
            raise ValueError(f"afan.taps.{name}.losses must keep every loss that depends on the tap where "
                             f"afan.schedule is 'joined', got {list(tap.losses or ())}, which leaves out {left_out}; "
                             f"add them, or use the schedule 'auto'")


def _norms_wait(model: nn.Module) -> bool:
    """Whether norms of this process wait for those of others."""
    return is_distributed() and any(isinstance(m, nn.SyncBatchNorm) and m.training for m in model.modules())


def _agreed(flag: bool) -> bool:
    return all_agree([flag])[0]
