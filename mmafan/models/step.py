"""One step of A-FAN: the clean losses, the attack at every tap, and the losses of the adversarial passes."""
from __future__ import annotations

import functools
import logging
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from mmengine.dist import get_rank
from mmengine.logging import print_log
from torch import Tensor

from ..replay import INPUTS, Batch, Facts, PassKind, Recording
from ..replay.rng import derived_generator
from ..tap_config import PassConfig
from .attack import Attack, RunLoss, Suffix
from .dependence import decide_losses
from .first_step import check_losses, check_pass
from .losses import Losses, depends, weight_losses
from .notices import notices
from .participation import choose_samples, participation_weight


class Part(NamedTuple):
    """Some of the weighted losses whose sum a step descends.

    Attributes:
        losses: Computes them, once.
        kind: The pass they come from.
        is_last: Whether no part follows.
    """
    losses: Callable[[], Losses]
    kind: PassKind = PassKind.CLEAN
    is_last: bool = False


class Step:
    """One step of a model on one batch.

    Args:
        model: The A-FAN model.
        batch: Preprocessed.
        run: Gives the stock losses of a batch.
    """

    def __init__(self, model: Any, batch: Batch, run: RunLoss) -> None:
        self.model, self.afan, self.batch, self.run = model, model.afan, batch, run
        self.taps = self.afan.taps

    def parts(self, keeps_graph: bool = False) -> Iterator[Part]:
        """Yield ``L_clean``, then ``L(suffix(f_i), y)`` for every tap and strength, weighted.

        Args:
            keeps_graph: Whether the clean graph lives to the end of the step. Otherwise its backward runs before the
                next part is asked for, and leaves the gradients at the taps.
        """
        self.afan.meters.stepped = True
        recording, losses = self.clean_pass()  # f = prefix(x), L = loss(suffix(f), y)
        attacks = [] if self.afan.batch_is_lost else self._attacks(recording)
        remaining = num_passes = sum(len(suffix.tap.passes) for suffix, _ in attacks)
        gradients = {suffix.name: suffix.clean_gradients(losses) for suffix, _ in attacks
                     if suffix.tap.starts_clean and (keeps_graph or suffix.tap.attacks_some)}
        yield Part(functools.partial(weight_losses, losses, self._clean_weight(recording, bool(attacks))))
        del losses
        if not keeps_graph:
            recording.release_graph()
        while attacks:
            suffix, attack = attacks.pop(0)
            attack.run(gradients.get(suffix.name) or suffix.backward_gradients(), suffix.gradients)  # g = dL/df, f_adv
            self._measure(suffix, attack)
            for wanted, perturbed in attack.passes(self._learned_factor(suffix)):  # f_i, or f_mix_i
                remaining -= 1
                yield Part(functools.partial(self._adversarial_losses, suffix, wanted, perturbed),
                           PassKind.ADVERSARIAL, is_last=remaining == 0)
        if not num_passes:
            yield Part(dict, is_last=True)
        self.afan.controls.iteration += 1

    def _clean_weight(self, recording: Recording, attacks_some: bool) -> float:
        """Return the factor of the clean losses: that of the stock model where every tap has lost its gradient."""
        frozen = not attacks_some and all(
            recording.captures[name].idle == 'no gradient' for name in self.taps)
        self.afan.meters.frozen = frozen
        return 1.0 if frozen else self.afan.config.clean_weight

    def clean_pass(self) -> Tuple[Recording, Losses]:
        """Run the clean forward under a recording; the first one also proves that the taps work."""
        afan, batch = self.afan, self.batch
        if afan.facts is None and not afan.num_waits:
            self._prepare_first()
        taps = afan.config.taps if afan.facts is None else self.taps
        known = afan.facts if afan.facts is not None and afan.facts.proven.issuperset(taps) else None
        facts = known or Facts(tuple(afan.codebase.watched_calls(self.model)))
        size = batch.size if any(tap.fraction < 1 for tap in taps.values()) else 0
        recording = Recording(self.model, taps, size, facts, afan.config.replay)
        with recording:
            if any(tap.module == INPUTS for tap in taps.values()):
                batch = batch.with_inputs(recording.record_inputs(batch.inputs))
            losses = self._run_clean(recording, batch)
        if known is None or not isinstance(losses, dict):
            check_losses(self.model, losses)
        if known is None:
            found = check_pass(self.model, recording, batch, self.run, losses)
            afan.num_waits += found is None
            if afan.facts is not None:
                found = recording.facts = afan.facts.joined(recording.facts)
            afan.facts = found
        else:
            if self._shows_more(recording, losses):
                recording.facts = decide_losses(recording, recording.facts, losses)
            afan.facts = recording.facts
        return recording, losses

    def _shows_more(self, recording: Recording, losses: Losses) -> bool:
        """Whether there is a loss that has not been there, or a tap's module ran another number of times."""
        facts = recording.facts
        for name, capture in recording.captures.items():
            if capture.live and len(capture.outputs) != facts.num_calls.get(name):
                return True
            for key in losses.keys() - facts.own_losses[name] - facts.other_losses[name] if capture.live else ():
                if depends({key: losses[key]}):
                    return True
        return False

    def _run_clean(self, recording: Recording, batch: Batch) -> Losses:
        """Run the clean forward."""
        return self.run(batch)

    def _prepare_first(self) -> None:
        afan = self.afan
        afan.norms.restore(self.model)
        if afan.controls.hooked:
            return
        for sentence in notices(afan.config):
            afan.say_once(sentence)
        if afan.config.learn_strengths is not None:
            raise ValueError("afan.learn_strengths needs custom_hooks=[dict(type='mmafan.AdvFeatureHook')], which "
                             'updates the learned strengths')
        if afan.config.batch_norm == 'separate':
            print_log("afan.batch_norm='separate' without AdvFeatureHook: the auxiliary norms will not be in the "
                      'checkpoints, and a resumed run starts them anew', logger='current', level=logging.WARNING)

    def _attacks(self, recording: Recording) -> List[Tuple[Suffix, Attack]]:
        """Make the attacks of this step, each on the samples that take part at its tap."""
        controls, rank = self.afan.controls, get_rank()
        made: List[Tuple[Suffix, Attack]] = []
        for number, (name, tap) in enumerate(self.taps.items()):
            idle = recording.captures[name].idle
            if idle is not None:
                self._note_idle(name, idle)
                continue
            chosen = None
            if tap.fraction < 1:
                least = self.afan.norms.least_samples
                turn = controls.iteration // tap.every
                chosen = choose_samples(self.batch.size, tap, least, turn, rank, number)
                if chosen is not None and not chosen.numbers:
                    continue
            suffix = Suffix(self.model, recording, self.batch, self.run, name, tap, chosen)
            generator = derived_generator(controls.iteration, rank, number, 1)
            made.append((suffix, Attack(tap, suffix.features, generator, controls.strength_scale,
                                        suffix.capture.autocast)))
        return made

    def _note_idle(self, name: str, reason: str) -> None:
        """Count the step, and say once that a tap that has worked has nothing left to perturb, or to train."""
        afan = self.afan
        afan.meters.count_idle(name, reason)
        if afan.facts is not None and name in afan.facts.proven and reason.startswith('no') and reason != 'no rows':
            module = self.taps[name].module
            afan.say_once({
                'no gradient': f'tap {name!r}: the feature of {module!r} has no gradient any more (is everything '
                               'before it frozen now?), so that A-FAN is off there',
                'nothing trains': f'tap {name!r}: nothing that trains is left after {module!r}, so that its '
                                  'adversarial losses train nothing',
                'not reached': f'tap {name!r}: a batch does not come to {module!r}, so that A-FAN is off there in such '
                               'steps'}[reason])

    def _measure(self, suffix: Suffix, attack: Attack) -> None:
        meters = self.afan.meters
        meters.count_samples(suffix.name, attack.num_skipped, suffix.tap.num_steps * sum(map(len, suffix.features)))
        if self.afan.controls.measure or suffix.tap.every > 1:  # may never take part where the log asks
            meters.diagnostics[f'{suffix.name}_relative_size'] = attack.relative_size()

    def _learned_factor(self, suffix: Suffix) -> Optional[Tensor]:
        learned = self.afan.learned
        return None if learned is None else learned.factor_on(suffix.name, suffix.features[0].device)

    def _adversarial_losses(self, suffix: Suffix, wanted: PassConfig, perturbed: Sequence[Tensor]) -> Losses:
        """Run one adversarial pass; return its losses, weighted and prefixed."""
        losses = suffix.losses(perturbed)
        if not depends(losses) and not self.afan.codebase.lacks_targets(self.batch):
            self._note_idle(suffix.name, 'nothing trains')
        weight = wanted.weight * suffix.tap.every
        if suffix.tap.fraction < 1:
            weight *= participation_weight(suffix.recording.size, suffix.tap, self.afan.norms.least_samples)
        return weight_losses(losses, weight, f'adv_{suffix.name}_{wanted.number}.')
