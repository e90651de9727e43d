"""What is said of a config, or of a schedule, that hardly does what it seems to say: there, and nowhere else."""
from __future__ import annotations

from types import SimpleNamespace

import pytest

from mmafan.config import AFANConfig
from mmafan.functional.statistics import MOMENTS
from mmafan.models.notices import notices, schedule_notices

LOST = 'is lost to rounding in most features: the passes run on clean ones'
NO_MIX = 'has no effect without reinject=True'
NO_GROUPS = "has no effect without moments='group' and reinject=True"
NO_CHOICE = "strength_sampling='random' has no effect with the one strength"


def config_of(**fields):
    """The config of one tap."""
    return AFANConfig.from_dict(dict(taps=dict(s=dict(dict(module='m', step_size=0.1), **fields))))


# ---------------------------------------------------------------- a config
@pytest.mark.parametrize('fields, sentences', [
    # the size of a perturbation: its steps, kept in a ball, or a ball to start in, times the strongest of the strengths
    (dict(step_size=0), []),
    (dict(step_size=1e-8), []),
    (dict(step_size=0.9e-8), [f'step_size=9e-09 {LOST}']),
    (dict(step_size=0.6e-8, num_steps=2), []),
    (dict(step_size=0.4e-8, num_steps=2), [f'step_size=4e-09 {LOST}']),
    (dict(step_size=1e-8, strengths=(0.25, 0.5)), [f'step_size=1e-08 {LOST}']),
    (dict(step_size=1e-8, strengths=(0.5, 1.0)), []),
    (dict(radius=1e-8), []),
    (dict(radius=0.9e-8), [f'radius=9e-09 {LOST}']),
    (dict(step_size=0.9e-8, radius=0.1), [f'step_size=9e-09 {LOST}']),
    (dict(step_size=0.9e-8, radius=0.1, random_start=True), []),
    (dict(step_size=0, radius=0.9e-8, random_start=True), [f'radius=9e-09 {LOST}']),
    # weights
    (dict(weight=1e-37), []),
    (dict(weight=0.9e-37), ['weight=9e-38 is 0 in float32: the adversarial losses do not count']),
    (dict(weight=(0, 1e-40), strengths=(0.5, 1.0)),
     ['weight=1e-40 is 0 in float32: the adversarial losses do not count']),
    (dict(weight=(1e-40, 1), strengths=(0.5, 1.0)), []),
    # statistics that nothing is given
    (dict(moments='channel', num_groups=32), []),
    (dict(moments='batch'), [f"moments='batch' {NO_MIX}"]),
    (dict(moments='batch', reinject=(False, True), strengths=(0.5, 1.0)), []),
    (dict(num_groups=8), [f'num_groups=8 {NO_GROUPS}']),
    (dict(num_groups=33, reinject=True), [f'num_groups=33 {NO_GROUPS}']),
    *((dict(num_groups=8, reinject=True, moments=moments), [f'num_groups=8 {NO_GROUPS}'])
      for moments in MOMENTS if moments != 'group'),
    (dict(num_groups=8, moments='group'), [f"moments='group' {NO_MIX}", f'num_groups=8 {NO_GROUPS}']),
    (dict(num_groups=8, moments='group', reinject=True), []),
    (dict(channel_dim=-1), [f'channel_dim=-1 {NO_MIX}']),
    (dict(channel_dim=1, reinject=True), []),
    # choices without a choice
    (dict(attack_losses=['loss']), []),
    (dict(direction='random_sign'), []),
    (dict(attack_losses=['loss'], direction='random_sign'),
     ["attack_losses=(('loss',),) has no effect with direction='random_sign'"]),
    (dict(strength_sampling='random'), [f'{NO_CHOICE} 1.0']),
    (dict(strength_sampling='random', strengths=0.5), [f'{NO_CHOICE} 0.5']),
    (dict(strength_sampling='random', strengths=(0.5, 1.0)), []),
    (dict(strength_sampling='random', strengths=(0.25, 0.5, 1.0)), []),
])
def test_each_field_without_an_effect_is_named(fields, sentences):
    assert list(notices(config_of(**fields))) == [f'afan.taps.s.{sentence}' for sentence in sentences]


@pytest.mark.parametrize('others', [{}, dict(t=None), dict(t=None, u=dict(module='k', step_size=0.1, weight=(0, 0),
                                                                          strengths=(0.5, 1.0)))])
def test_of_taps_that_are_off_it_is_said_that_all_are(others):
    off = dict(module='m', step_size=1e-30, weight=0)
    assert list(notices(AFANConfig.from_dict(dict(taps=dict(others, s=off))))) == [
        'A-FAN is off in the whole training: every tap of afan.taps is None or has a weight of 0']
    on = dict(module='n', step_size=0.1, num_groups=8)
    assert list(notices(AFANConfig.from_dict(dict(taps=dict(others, s=off, v=on))))) == [
        f'afan.taps.v.num_groups=8 {NO_GROUPS}']


# ---------------------------------------------------------------- a schedule
@pytest.mark.parametrize('begin, ramp, end, length, share', [
    (0, 10, None, 10, None), (0, 11, None, 10, '0.91'), (2, 8, None, 10, None), (2, 9, None, 10, '0.89'),
    (2, 8, 9, 10, '0.88'), (2, 8, 20, 10, None), (2, 16, 20, 10, '0.5'), (0, 0, None, 0, None),
    (1, 0, None, 0, None), (0, 10, 4, None, None)])
def test_a_ramp_that_ends_too_late_is_told_with_the_share_that_is_reached(begin, ramp, end, length, share):
    hook = SimpleNamespace(begin=begin, ramp=ramp, end=end)
    runtime = SimpleNamespace(config=config_of(), norms=SimpleNamespace(least_samples=1))
    assert list(schedule_notices(hook, runtime, length, None, None)) == ([] if share is None else [
        f'AdvFeatureHook.ramp={ramp} does not end before the training, or A-FAN, does: the strengths come to {share} '
        'of their full value'])


@pytest.mark.parametrize('fraction, least, batch_size, num_iterations, is_told', [
    (0.1, 1, 2, 4, True), (0.1, 1, 2, 5, False), (0.1, 2, 2, 9, True), (0.1, 2, 2, 10, False),
    (0.1, 2, 1, 9, True), (0.1, 2, 1, 10, False), (1 / 49, 1, 1, 48, True), (1 / 49, 1, 1, 49, False),
    (0.9, 1, 2, 1, False), (1.0, 4, 2, 1, False), (1e-6, 1, 2, 10**5, True), (1e-6, 1, 2, 10**6, False),
    (1e-6, 1, 2, None, False), (1e-6, 1, None, 5, False), (1e-6, 1, 0, 5, False)])
def test_a_fraction_that_chooses_nobody_is_told(fraction, least, batch_size, num_iterations, is_told):
    hook = SimpleNamespace(begin=0, ramp=0, end=None)
    taps = {name: dict(module=name, step_size=0.1, fraction=fraction, weight=weight)
            for name, weight in dict(s=1, off=0).items()}
    runtime = SimpleNamespace(config=AFANConfig.from_dict(dict(taps=taps)),
                              norms=SimpleNamespace(least_samples=least))
    assert list(schedule_notices(hook, runtime, None, num_iterations, batch_size)) == is_told * [
        f'afan.taps.s.fraction={fraction} chooses no sample in the {num_iterations} iterations of this training with '
        f'{batch_size} samples in a batch: A-FAN is off at this tap']
