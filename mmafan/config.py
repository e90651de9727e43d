"""The ``afan=dict(...)`` field of a model config, as frozen and validated dataclasses."""
from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Dict, Mapping, Optional, Tuple, Type, TypeVar

from .functional.perturb import NORMS
from .functional.statistics import MOMENTS
from .validation import check_choice, check_integer, check_number, fail, is_number, suggest

STEP_UNITS = ('absolute', 'std')
STRENGTH_SAMPLINGS = ('all', 'random')
DIRECTIONS = ('gradient', 'random_sign')
BATCH_NORM_POLICIES = ('shared', 'batch', 'frozen', 'separate')
SCHEDULES = ('auto', 'two_phase', 'single_graph')

T = TypeVar('T')


def _build(cls: Type[T], value: Any, where: str) -> T:
    """Make dataclass ``cls`` from a mapping; an unknown or missing key is one sentence."""
    if not isinstance(value, Mapping):
        fail(where, value, 'a dict')
    names = [f.name for f in fields(cls) if f.name != 'where']  # type: ignore[arg-type]
    for key in value:
        if key not in names:
            raise ValueError(f'{where} has no field {key!r}: {suggest(str(key), names)}')
    for f in fields(cls):  # type: ignore[arg-type]
        if f.default is MISSING and f.name not in value:
            raise ValueError(f'{where} needs the field {f.name!r}')
    return cls(**value, where=where)  # type: ignore[call-arg]


@dataclass(frozen=True)
class TapConfig:
    """One tap: where features are perturbed, how, and what their losses count.

    Attributes:
        module: Dotted name of the module whose output is perturbed, e.g. ``'backbone.layer1'``; or
            ``'inputs'`` for the preprocessed images (adversarial training of the input, AdvProp's way).
        step_size: Length of one attack step, in ``step_unit``; 0 runs the same passes unperturbed.
        step_unit: ``'absolute'`` (the feature's own values, as the authors) or ``'std'`` (multiples of each
            sample's standard deviation over its whole feature, portable across taps and dtypes).
        num_steps: Number of PGD steps; the first costs nothing when it starts from the clean feature.
        radius: Perturbations are projected to a ball of this radius, in ``step_unit``; None: no projection.
        norm: ``'linf'`` (sign step) or ``'l2'`` (normalised step), for steps, projection and random start.
        random_start: Start the attack at a random point of the ball; needs ``radius``.
        clamp: ``(low, high)`` the perturbed values are kept in, for example the range of the pixels.
        strengths: Fractions of the full perturbation, each in (0, 1], weak to strong.
        strength_sampling: ``'all'`` runs one adversarial pass per strength; ``'random'`` runs a single pass in
            which every sample draws one of the strengths.
        reinject: Whether the clean feature with the perturbed statistics is used in place of the perturbed
            feature; one bool, or one per strength.
        moments: Which statistics are re-injected, see :func:`mmafan.functional.feature_moments`.
        num_groups: Number of channel groups for ``moments='group'``.
        channel_dim: Dimension of the channels; None: the last of three, else the second.
        weight: Factor of each adversarial loss term (lambda); one number, or one per strength.
        losses: Names of the losses the attack ascends and the adversarial terms keep; None: all of them.
        fraction: Share of the batch's samples that take part, in (0, 1]; drawn anew at each step.
        direction: ``'gradient'`` (the attack) or ``'random_sign'`` (the control: noise of equal size).
    """
    module: str
    step_size: float
    step_unit: str = 'absolute'
    num_steps: int = 1
    radius: Optional[float] = None
    norm: str = 'linf'
    random_start: bool = False
    clamp: Optional[Tuple[float, float]] = None
    strengths: Tuple[float, ...] = (1.0, )
    strength_sampling: str = 'all'
    reinject: Tuple[bool, ...] = (False, )
    moments: str = 'channel'
    num_groups: int = 32
    channel_dim: Optional[int] = None
    weight: Tuple[float, ...] = (1.0, )
    losses: Optional[Tuple[str, ...]] = None
    fraction: float = 1.0
    direction: str = 'gradient'
    where: str = field(default='afan.taps', repr=False, compare=False)

    def __post_init__(self) -> None:
        w = self.where
        if not isinstance(self.module, str) or not self.module:
            fail(f'{w}.module', self.module, "the dotted name of a module, such as 'backbone.layer1'")
        check_number(f'{w}.step_size', self.step_size, 'a finite number of at least 0', 0)
        check_choice(f'{w}.step_unit', self.step_unit, STEP_UNITS)
        check_integer(f'{w}.num_steps', self.num_steps, 1)
        check_choice(f'{w}.norm', self.norm, NORMS)
        check_choice(f'{w}.moments', self.moments, MOMENTS)
        check_choice(f'{w}.strength_sampling', self.strength_sampling, STRENGTH_SAMPLINGS)
        check_choice(f'{w}.direction', self.direction, DIRECTIONS)
        check_integer(f'{w}.num_groups', self.num_groups, 1)
        if self.radius is not None:
            check_number(f'{w}.radius', self.radius, 'None or a number above 0', 0, open_low=True)
        if not isinstance(self.random_start, bool):
            fail(f'{w}.random_start', self.random_start, 'True or False')
        if self.random_start and self.radius is None:
            raise ValueError(f'{w}.random_start=True needs {w}.radius, the size of the ball to start in')
        if self.random_start and self.direction == 'random_sign':
            raise ValueError(f"{w}.random_start must be False where {w}.direction is 'random_sign', which is random")
        if self.channel_dim is not None and (isinstance(self.channel_dim, bool)
                                             or not isinstance(self.channel_dim, int)
                                             or self.channel_dim == 0):
            fail(f'{w}.channel_dim', self.channel_dim, 'None or a dimension other than 0 (the samples)')
        if self.clamp is not None:
            pair = self.clamp
            if (not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(map(is_number, pair))
                    or pair[0] >= pair[1]):
                fail(f'{w}.clamp', pair, 'None or (low, high) with low < high')
            object.__setattr__(self, 'clamp', tuple(pair))
        self._check_strengths()
        check_number(f'{w}.fraction', self.fraction, 'a number in (0, 1]', 0, open_low=True)
        if self.fraction > 1:
            fail(f'{w}.fraction', self.fraction, 'a number in (0, 1]')
        if self.losses is not None:
            names = (self.losses, ) if isinstance(self.losses, str) else self.losses
            if (not isinstance(names, (tuple, list)) or not names
                    or not all(isinstance(n, str) and n for n in names)):
                fail(f'{w}.losses', self.losses, "None or a list of loss names, such as ('loss_cls',)")
            object.__setattr__(self, 'losses', tuple(names))

    def _check_strengths(self) -> None:
        w = self.where
        strengths: Any = (self.strengths, ) if is_number(self.strengths) else self.strengths
        if (not isinstance(strengths, (tuple, list)) or not strengths
                or not all(is_number(s) and 0 < s <= 1 for s in strengths)):
            fail(f'{w}.strengths', self.strengths, 'fractions in (0, 1], such as (0.5, 1.0)')
        count = len(strengths)
        reinject: Any = (self.reinject, ) if isinstance(self.reinject, bool) else self.reinject
        if not isinstance(reinject, (tuple, list)) or not all(isinstance(r, bool) for r in reinject):
            fail(f'{w}.reinject', self.reinject, 'True, False or one of them per strength')
        weight: Any = (self.weight, ) if is_number(self.weight) else self.weight
        if (not isinstance(weight, (tuple, list)) or not all(is_number(v) and v >= 0 for v in weight)):
            fail(f'{w}.weight', self.weight, 'a number of at least 0, or one per strength')
        if self.strength_sampling == 'random' and len(weight) != 1:
            fail(f'{w}.weight', self.weight, "one number when strength_sampling='random' (one pass)")
        for name, given in (('reinject', reinject), ('weight', weight)):
            if len(given) not in (1, count):
                raise ValueError(f'{w}.{name} must have one entry, or as many as the {count} strengths, '
                                 f'got {len(given)}')
        object.__setattr__(self, 'strengths', tuple(float(s) for s in strengths))
        object.__setattr__(self, 'reinject', tuple(reinject) * (count if len(reinject) == 1 else 1))
        object.__setattr__(self, 'weight', tuple(float(v) for v in weight) *
                           (count if len(weight) == 1 else 1))

    @property
    def active(self) -> bool:
        """Whether any adversarial term counts."""
        return any(value > 0 for value in self.weight)

    @property
    def num_passes(self) -> int:
        """Number of adversarial passes in one step."""
        if self.strength_sampling == 'random':
            return int(self.active)
        return sum(value > 0 for value in self.weight)


@dataclass(frozen=True)
class LearnStrengthsConfig:
    """Learn one factor per tap for its strengths, as the authors' classification variant does.

    The factors multiply the perturbation, start at ``init``, follow their own SGD on the training loss plus
    ``l1 * sum |w|``, and are moved back to the plane where they sum to 1 after every update
    (``main_learnable.py`` of the authors' code: rate 0.01, momentum 0.9, l1 1, init one over the number of taps).
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
            ``'single_graph'`` (one summed loss, for engines that own the backward) or ``'auto'``.
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
                where = f'afan.taps.{name}'
                built[name] = _build(TapConfig, tap, where)
        modules: Dict[str, str] = {}
        for name, config in built.items():
            if config.module in modules:
                raise ValueError(f'afan.taps.{name}.module must differ from that of '
                                 f'afan.taps.{modules[config.module]}, both are {config.module!r}')
            modules[config.module] = name
        learn = value.get('learn_strengths')
        if learn is not None:
            learn = _build(LearnStrengthsConfig, learn, 'afan.learn_strengths')
        rest = {k: v for k, v in value.items() if k not in ('taps', 'learn_strengths')}
        return cls(taps=built, learn_strengths=learn, **rest)
