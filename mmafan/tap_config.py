"""One tap of the ``afan=dict(...)`` field: where features are perturbed, how, and what their losses count."""
from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, Callable, NamedTuple, Optional, Tuple

from .functional.perturb import NORMS
from .functional.statistics import MOMENTS
from .validation import check_choice, check_integer, check_number, fail, is_number

CHOICES = dict(at=('output', 'input'), step_unit=('absolute', 'std'), norm=NORMS, moments=MOMENTS,
               strength_sampling=('all', 'random'), direction=('gradient', 'random_sign'))


class PassConfig(NamedTuple):
    """One adversarial pass of a tap.

    Attributes:
        number: Its number in the names of its losses.
        weight: Factor of its losses, above 0.
        strength: Fraction of the full perturbation; None: each sample draws one of the tap's.
        reinject: Whether it takes the clean feature with the perturbed statistics; not said where it is drawn.
    """
    number: int
    weight: float
    strength: Optional[float] = None
    reinject: bool = False


@dataclass(frozen=True)
class TapConfig:
    """One tap: where features are perturbed, how, and what their losses count.

    Attributes:
        module: Dotted name of the module whose output is perturbed, e.g. ``'backbone.layer1'``; or
            ``'inputs'`` for the preprocessed images (adversarial training of the input, AdvProp's way).
        at: ``'output'`` or ``'input'`` of the module; the input is for features that no module returns, such as a
            concatenation.
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
        losses: Names of the losses the adversarial terms keep and, unless ``attack_losses`` says otherwise, the attack
            ascends; patterns such as ``'*loss_cls'`` are allowed. None: all that come after the tap.
        attack_losses: Names of the losses the attack ascends; None: those of ``losses``. With several lists of names,
            every sample ascends the list whose step raises its whole loss the most, to first order: the stronger of
            classification and localisation, for example.
        fraction: Share of the samples that take part, in (0, 1], on the mean over the steps: a batch too small for
            it sits some steps out, and its adversarial terms weigh so much more in the others.
        every: The tap takes part in every so manieth step alone, and its adversarial terms weigh so much more there.
        direction: ``'gradient'`` (the attack) or ``'random_sign'`` (the control: noise of equal size).
    """
    module: str
    step_size: float
    at: str = 'output'
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
    attack_losses: Optional[Tuple[Tuple[str, ...], ...]] = None
    fraction: float = 1.0
    every: int = 1
    direction: str = 'gradient'
    where: str = field(default='afan.taps', repr=False, compare=False)

    def __post_init__(self) -> None:
        w = self.where
        if not isinstance(self.module, str) or not self.module:
            fail(f'{w}.module', self.module, "the dotted name of a module, such as 'backbone.layer1'")
        check_number(f'{w}.step_size', self.step_size, 'a finite number of at least 0', 0)
        for name, choices in CHOICES.items():
            check_choice(f'{w}.{name}', getattr(self, name), choices)
        if self.module == 'inputs' and self.at != 'output':
            fail(f'{w}.at', self.at, "'output' for the module 'inputs', which is no module of the network")
        check_integer(f'{w}.num_steps', self.num_steps, 1)
        check_integer(f'{w}.num_groups', self.num_groups, 1)
        if self.radius is not None:
            check_number(f'{w}.radius', self.radius, 'None or a number above 0', 0, open_low=True)
        if not isinstance(self.random_start, bool):
            fail(f'{w}.random_start', self.random_start, 'True or False')
        if self.random_start and self.radius is None:
            raise ValueError(f'{w}.random_start=True needs {w}.radius, the size of the ball to start in')
        if self.random_start and self.direction == 'random_sign':
            raise ValueError(f"{w}.random_start must be False where {w}.direction is 'random_sign', which is random")
        if self.channel_dim is not None and (type(self.channel_dim) is not int or self.channel_dim == 0):
            fail(f'{w}.channel_dim', self.channel_dim, 'None or a dimension other than 0 (the samples)')
        if self.clamp is not None:
            pair = self.clamp
            if (not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(map(is_number, pair))
                    or pair[0] >= pair[1]):
                fail(f'{w}.clamp', pair, 'None or (low, high) with low < high')
            object.__setattr__(self, 'clamp', tuple(pair))
        self._check_strengths()
        if not is_number(self.fraction) or not 0 < self.fraction <= 1:
            fail(f'{w}.fraction', self.fraction, 'a number in (0, 1]')
        check_integer(f'{w}.every', self.every, 1)
        if self.losses is not None:
            object.__setattr__(self, 'losses', _names(f'{w}.losses', self.losses))
        if self.attack_losses is not None:
            groups: Any = self.attack_losses
            if not isinstance(groups, (tuple, list)) or all(isinstance(g, str) for g in groups):
                groups = (groups, )
            object.__setattr__(self, 'attack_losses', tuple(_names(f'{w}.attack_losses', g) for g in groups))

    def _check_strengths(self) -> None:
        w = self.where
        strengths = _entries(f'{w}.strengths', self.strengths, lambda s: is_number(s) and 0 < s <= 1,
                             'fractions in (0, 1], such as (0.5, 1.0)')
        reinject = _entries(f'{w}.reinject', self.reinject, lambda r: isinstance(r, bool),
                            'True, False or one of them per strength')
        weight = _entries(f'{w}.weight', self.weight, lambda v: is_number(v) and v >= 0,
                          'a number of at least 0, or one per strength')
        count = len(strengths)
        if self.strength_sampling == 'random' and len(weight) != 1:
            fail(f'{w}.weight', self.weight, "one number when strength_sampling='random' (one pass)")
        for name, given in (('reinject', reinject), ('weight', weight)):
            if len(given) not in (1, count):
                raise ValueError(f'{w}.{name} must have one entry, or as many as the {count} strengths, '
                                 f'got {len(given)}')
        object.__setattr__(self, 'strengths', tuple(float(s) for s in strengths))
        object.__setattr__(self, 'reinject', reinject * (count if len(reinject) == 1 else 1))
        one_pass = self.strength_sampling == 'random' or len(weight) > 1
        object.__setattr__(self, 'weight', tuple(float(v) for v in weight) * (1 if one_pass else count))

    @functools.cached_property
    def attacks_some(self) -> bool:
        """Whether the attack ascends a part of the losses, whose gradient the clean backward does not give."""
        return self.losses is not None or self.attack_losses is not None

    @functools.cached_property
    def starts_clean(self) -> bool:
        """Whether the attack's first step follows the gradient at the clean feature."""
        return self.direction != 'random_sign' and not self.random_start

    @functools.cached_property
    def passes(self) -> Tuple[PassConfig, ...]:
        """The adversarial passes of one step: those whose weight is above 0."""
        if self.strength_sampling == 'random':
            return tuple(PassConfig(0, weight) for weight in self.weight if weight > 0)
        rows = zip(self.weight, self.strengths, self.reinject)
        return tuple(PassConfig(index, *row) for index, row in enumerate(rows) if row[0] > 0)

    @property
    def num_passes(self) -> int:
        """Number of adversarial passes in one step."""
        return len(self.passes)

    @functools.cached_property
    def active(self) -> bool:
        """Whether any adversarial term counts."""
        return bool(self.passes)


def _names(where: str, value: Any) -> Tuple[str, ...]:
    return _entries(where, value, lambda name: isinstance(name, str) and bool(name),
                    "None or a list of loss names, such as ('loss_cls',)")


def _entries(where: str, value: Any, fits: Callable[[Any], bool], right: str) -> Tuple[Any, ...]:
    """Return one or several entries as a tuple."""
    entries = (value, ) if fits(value) else value
    if not isinstance(entries, (tuple, list)) or not entries or not all(map(fits, entries)):
        fail(where, value, right)
    return tuple(entries)
