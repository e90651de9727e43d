"""The ``afan=dict(...)`` field of a model config, as frozen and validated dataclasses."""
from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Dict, Mapping, Optional

from .tap_config import TapConfig
from .validation import build_dataclass, check_choice, check_number, fail, is_number, suggest

BATCH_NORM_POLICIES = ('shared', 'batch', 'frozen', 'separate')
SCHEDULES = ('auto', 'two_phase', 'single_graph', 'joined')


@dataclass(frozen=True)
class LearnStrengthsConfig:
    """Learn one factor per tap for its strengths, as the authors' classification variant does.

    The factors multiply the perturbation, start at ``init``, follow their own SGD on the training loss plus
    ``l1 * sum |w|``, and are moved back to the plane where they sum to 1 after every update
    (``main_learnable.py`` of the authors' code: rate 0.01, momentum 0.9, l1 1, init one over the number of taps).

    Attributes:
        lr: Rate of that SGD; above 0.
        momentum: Its momentum, in [0, 1).
        l1: Factor of the penalty on the factors' sizes.
        init: What each factor starts with; None: one over the number of taps.
    """
    lr: float = 0.01
    momentum: float = 0.9
    l1: float = 1.0
    init: Optional[float] = None
    where: str = field(default='afan.learn_strengths', repr=False, compare=False)

    def __post_init__(self) -> None:
        w = self.where
        check_number(f'{w}.lr', self.lr, 'a number above 0', 0, open_low=True)
        check_number(f'{w}.l1', self.l1, 'a number of at least 0', 0)
        if not is_number(self.momentum) or not 0 <= self.momentum < 1:
            fail(f'{w}.momentum', self.momentum, 'a number in [0, 1)')
        if self.init is not None and not is_number(self.init):
            fail(f'{w}.init', self.init, 'None or a number')


@dataclass(frozen=True)
class AFANConfig:
    """All of ``afan=dict(...)``.

    Attributes:
        taps: Name to :class:`TapConfig`; a dict, so that a downstream config overrides one field of one tap.
            A tap set to None (or to a weight of 0) is switched off.
        clean_weight: Factor of the clean loss while adversarial terms are on; above 0.
        batch_norm: What batch norms do in an adversarial pass: ``'shared'`` (as published: batch statistics,
            also stored in the running statistics that inference uses), ``'batch'`` (batch statistics, nothing
            stored), ``'frozen'`` (the clean running statistics) or ``'separate'`` (an auxiliary norm with
            statistics and affine parameters of its own, as in AdvProp).
        schedule: ``'two_phase'`` (clean backward, then each adversarial pass in turn; memory of the baseline),
            ``'single_graph'`` (one summed loss, for engines that own the backward), ``'joined'`` (the perturbed
            features run with the clean ones of the next step, in one forward and one backward) or ``'auto'``.
        replay: Whether modules that finished before the tap return their recorded clean output in an
            adversarial pass; False runs them again (slower, for networks that replay cannot reproduce).
        learn_strengths: See :class:`LearnStrengthsConfig`; None: strengths stay as configured.
    """
    taps: Dict[str, TapConfig]
    clean_weight: float = 1.0
    batch_norm: str = 'batch'
    schedule: str = 'auto'
    replay: bool = True
    learn_strengths: Optional[LearnStrengthsConfig] = None

    def __post_init__(self) -> None:
        check_number('afan.clean_weight', self.clean_weight, 'a number above 0', 0, open_low=True)
        check_choice('afan.batch_norm', self.batch_norm, BATCH_NORM_POLICIES)
        check_choice('afan.schedule', self.schedule, SCHEDULES)
        if not isinstance(self.replay, bool):
            fail('afan.replay', self.replay, 'True or False')
        if self.schedule == 'joined':
            self._check_joined()

    def _check_joined(self) -> None:
        """The joined backward gives one gradient for each tap, at the clean feature, and the next step uses it."""
        why = "where afan.schedule is 'joined', which takes the one gradient that the clean backward gives"
        for name, tap in self.taps.items():
            for key, wanted in (('num_steps', 1), ('random_start', False), ('attack_losses', None), ('every', 1)):
                if getattr(tap, key) != wanted:
                    fail(f'afan.taps.{name}.{key}', getattr(tap, key), f'{wanted} {why}')
        if not self.replay:
            fail('afan.replay', self.replay, "True where afan.schedule is 'joined': the next step has other weights")
        if self.learn_strengths is not None:
            fail('afan.learn_strengths', self.learn_strengths, "None where afan.schedule is 'joined'")

    @classmethod
    def from_dict(cls, value: Any) -> 'AFANConfig':
        """Validate ``afan=dict(...)`` of a model config.

        Args:
            value: The mapping a user wrote.

        Raises:
            ValueError: One sentence that names the field, the value and what would be right.

        Example:
            >>> cfg = AFANConfig.from_dict(dict(taps=dict(stage1=dict(module='backbone.layer1', step_size=0.1))))
            >>> cfg.taps['stage1'].strengths
            (1.0,)
        """
        if isinstance(value, AFANConfig):
            return value
        if not isinstance(value, Mapping):
            fail('afan', value, "a dict such as dict(taps=dict(stage1=dict(module='backbone.layer1', "
                 "step_size=0.3, step_unit='std')))")
        names = [f.name for f in fields(cls)]
        for key in value:
            if key not in names:
                raise ValueError(f'afan has no field {key!r}: {suggest(str(key), names)}')
        taps = value.get('taps')
        if not isinstance(taps, Mapping) or not taps:
            fail('afan.taps', taps, "a dict of at least one tap, such as "
                 "dict(stage1=dict(module='backbone.layer1', step_size=0.3, step_unit='std'))")
        built = {}
        for name, tap in taps.items():
            if not isinstance(name, str) or not name.isidentifier():
                fail('afan.taps', name, 'keyed by plain names such as backbone (letters, digits, _)')
            if 'loss' in name or name.startswith('_'):
                fail('afan.taps', name, "keyed by names without 'loss' in them that do not begin with _")
            if tap is not None:
                built[name] = build_dataclass(TapConfig, tap, f'afan.taps.{name}')
        places: Dict[Any, str] = {}
        for name, config in built.items():
            other = places.setdefault((config.module, config.at), name)
            if other != name:
                raise ValueError(f'afan.taps.{name}.module must differ from that of afan.taps.{other}, both are '
                                 f'{config.module!r}')
        learn = value.get('learn_strengths')
        if learn is not None:
            learn = build_dataclass(LearnStrengthsConfig, learn, 'afan.learn_strengths')
        return cls(**{**value, 'taps': built, 'learn_strengths': learn})
