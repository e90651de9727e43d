"""What a user should know of a config, or of a schedule, that can run and hardly does what it seems to say."""
from __future__ import annotations

from typing import Any, Iterator, Optional

from ..config import AFANConfig
from ..tap_config import TapConfig
from .participation import num_chosen_before

ROUNDING = 1e-8  # half of the spacing of float32 at 0.1; a smaller perturbation vanishes in most features


def notices(config: AFANConfig) -> Iterator[str]:
    """Yield a sentence for each part of a config that has no effect.

    Example:
        >>> config = AFANConfig.from_dict(dict(taps=dict(a=dict(module='m', step_size=0.1, num_groups=8))))
        >>> list(notices(config))
        ["afan.taps.a.num_groups=8 has no effect without moments='group' and reinject=True"]
    """
    if not any(tap.active for tap in config.taps.values()):
        yield 'A-FAN is off in the whole training: every tap of afan.taps is None or has a weight of 0'
    for name, tap in config.taps.items():
        if tap.active:
            for sentence in _of_tap(tap):
                yield f'afan.taps.{name}.{sentence}'


def _of_tap(tap: TapConfig) -> Iterator[str]:
    size = tap.step_size * tap.num_steps
    if tap.radius is not None:
        size = tap.radius if tap.random_start else min(size, tap.radius)
    strongest = max(tap.strengths)
    if 0 < size * strongest < ROUNDING:
        field = 'radius' if size == tap.radius else 'step_size'
        yield (f'{field}={getattr(tap, field)!r} is lost to rounding in most features: the passes run on clean ones')
    if max(tap.weight) < 1e-37:
        yield f'weight={max(tap.weight)!r} is 0 in float32: the adversarial losses do not count'
    mixes = any(tap.reinject)
    if tap.moments != 'channel' and not mixes:
        yield f'moments={tap.moments!r} has no effect without reinject=True'
    if tap.num_groups != 32 and not (mixes and tap.moments == 'group'):
        yield f"num_groups={tap.num_groups} has no effect without moments='group' and reinject=True"
    if tap.channel_dim is not None and not mixes:
        yield f'channel_dim={tap.channel_dim} has no effect without reinject=True'
    if tap.attack_losses is not None and tap.direction == 'random_sign':
        yield f"attack_losses={tap.attack_losses!r} has no effect with direction='random_sign'"
    if tap.strength_sampling == 'random' and len(tap.strengths) < 2:
        yield f"strength_sampling='random' has no effect with the one strength {strongest}"


def schedule_notices(hook: Any, runtime: Any, length: Optional[int], num_iterations: Optional[int],
                     batch_size: Optional[int]) -> Iterator[str]:
    """Yield a sentence for each field that leaves A-FAN off, or far from its full strength, to the end.

    Args:
        hook: An :class:`mmafan.hooks.AdvFeatureHook`.
        runtime: Of the model.
        length: Of the training, in the unit of the hook's schedule; None: not known, as the others.
        num_iterations: Of the training.
        batch_size: Of a process.
    """
    if length is not None and hook.ramp:
        last = length if hook.end is None else min(length, hook.end)
        if hook.ramp > last - hook.begin:
            yield (f'AdvFeatureHook.ramp={hook.ramp} does not end before the training, or A-FAN, does: the strengths '
                   f'come to {(last - hook.begin) / hook.ramp:.2g} of their full value')
    for name, tap in runtime.config.taps.items():
        if tap.active and num_iterations and batch_size and not num_chosen_before(
                batch_size, tap.fraction, runtime.norms.least_samples, num_iterations):
            yield (f'afan.taps.{name}.fraction={tap.fraction} chooses no sample in the {num_iterations} iterations '
                   f'of this training with {batch_size} samples in a batch: A-FAN is off at this tap')
