"""A-FAN is never off without a word: before a training, in the middle of one, and in its log."""
from __future__ import annotations

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import nn

from mmafan import afan_model
from mmafan.config import AFANConfig
from mmafan.hooks import AdvFeatureHook
from mmafan.models.notices import notices

from ..training import record_warnings
from .test_adv_feature_hook import TAPS, Net, make_runner


def ours(warnings):
    return [text for text in warnings if text.startswith(('A-FAN', 'afan.', 'AdvFeatureHook', 'tap '))]


def said(tmp_path, hook=None, epochs=1, **kwargs):
    """What is said in a training."""
    runner, spy = make_runner(tmp_path, hook, epochs, **kwargs)
    with record_warnings() as warnings:
        runner.train()
    return ours(warnings), spy, runner


def tap(**fields):
    return dict(taps=dict(s=dict(dict(module='conv1', step_size=0.1), **fields)))


# ---------------------------------------------------------------- before a training
@pytest.mark.parametrize('afan, hook, sentence', [
    (dict(taps=dict(s=None)), {}, 'A-FAN is off in the whole training: every tap of afan.taps is None or has'),
    (tap(weight=0.0), {}, 'A-FAN is off in the whole training: every tap of afan.taps is None or has a weight of 0'),
    (tap(fraction=1e-6), {}, 'afan.taps.s.fraction=1e-06 chooses no sample in the 4 iterations of this training with'),
    (tap(), dict(ramp=10**9), 'AdvFeatureHook.ramp=1000000000 does not end before the training, or A-FAN, does: the '
                              'strengths come to 1e-09 of their full value'),
    (tap(step_size=1e-30), {}, 'afan.taps.s.step_size=1e-30 is lost to rounding'),
    (tap(strengths=1e-30), {}, 'afan.taps.s.step_size=0.1 is lost to rounding'),
    (tap(radius=1e-30), {}, 'afan.taps.s.radius=1e-30 is lost to rounding'),
    (tap(weight=1e-300), {}, 'afan.taps.s.weight=1e-300 is 0 in float32'),
    (tap(num_groups=2), {}, "afan.taps.s.num_groups=2 has no effect without moments='group' and reinject=True"),
    (tap(moments='batch'), {}, "afan.taps.s.moments='batch' has no effect without reinject=True"),
    (tap(channel_dim=1), {}, 'afan.taps.s.channel_dim=1 has no effect without reinject=True'),
    (tap(attack_losses=['loss'], direction='random_sign'), {}, 'afan.taps.s.attack_losses='),
    (tap(strength_sampling='random'), {}, "afan.taps.s.strength_sampling='random' has no effect with the one strength"),
])
def test_what_is_known_is_said_once_before_the_first_iteration(tmp_path, afan, hook, sentence):
    warnings, _, runner = said(tmp_path, AdvFeatureHook(**hook), afan=afan)
    assert [text for text in warnings if text.startswith(sentence)] and len(warnings) == 1, warnings
    assert '\n' not in warnings[0]


def test_nothing_is_said_of_a_training_that_does_what_it_says(tmp_path):
    assert said(tmp_path, AdvFeatureHook(begin=1, ramp=2, end=4), 4, afan=dict(taps=TAPS))[0] == []


def test_it_is_said_without_the_hook_too(tmp_path):
    for fields in (dict(step_size=1e-30), dict(weight=0)):
        assert len(said(tmp_path, Hook(), afan=tap(**fields))[0]) == 1


@pytest.mark.parametrize('fields', [dict(weight=1e39), dict(step_size=1e300), dict(radius=10**400)])
def test_numbers_beyond_float32_are_refused(fields):
    with pytest.raises(ValueError, match=rf'afan.taps.s.{next(iter(fields))} must be '):
        Net(afan=tap(**fields))


@pytest.mark.parametrize('name', ['begin', 'end', 'ramp', 'interval'])
def test_integers_that_no_training_reaches_are_refused(name):
    with pytest.raises(ValueError, match=rf'AdvFeatureHook.{name} must be an integer below'):
        AdvFeatureHook(**{name: 10**400})


def test_two_hooks_are_refused(tmp_path):
    runner, _ = make_runner(tmp_path)
    runner.register_hook(AdvFeatureHook(begin=2))
    with pytest.raises(ValueError, match='custom_hooks must have one AdvFeatureHook, got several'):
        runner.train()
    assert runner.iter == 0


def test_the_hook_is_idle_beside_a_stock_model_and_says_so(tmp_path):
    runner, spy = make_runner(tmp_path, epochs=1)
    stock = Net.__mro__[-Net.__mro__[::-1].index(BaseModel) - 2]
    assert not hasattr(stock(), 'afan')
    runner.model = stock()
    runner._hooks.remove(spy)
    with record_warnings() as warnings:
        runner.train()
    warnings = ours(warnings)
    assert runner.iter == 4 and len(warnings) == 1
    assert warnings[0].startswith("AdvFeatureHook needs an A-FAN model, got model.type='Net', and stays idle: write ")


@afan_model
class Odd(BaseModel):
    """Two names of one module, and whatever else the forward returns."""
    returned = None

    def __init__(self):
        super().__init__()
        self.conv1, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.same = self.conv1

    def forward(self, inputs, data_samples=None, mode='tensor'):
        loss = nn.functional.cross_entropy(self.fc(self.conv1(inputs).mean((2, 3))), data_samples)
        return self.returned(loss)


def test_two_names_of_one_module_are_refused():
    with pytest.raises(ValueError, match="afan.taps.b.module must differ from that of afan.taps.a, but 'same' and "
                                         "'conv1' are one module under two names"):
        Odd(afan=dict(taps=dict(a=dict(module='conv1', step_size=0.1), b=dict(module='same', step_size=0.1))))


@pytest.mark.parametrize('returned, sentence', [
    (lambda loss: dict(loss=loss, loss_b=1.5), "'loss_b' among the losses of Odd must be a tensor or a list of .* got "
                                               '1.5'),
    (lambda loss: dict(loss=loss, loss_b=None), "'loss_b' among the losses of Odd must be a tensor"),
    (lambda loss: loss, "Odd must return a dict of losses in mode='loss', got Tensor"),
    (lambda loss: (loss, dict(loss=loss)), "Odd must return a dict of losses in mode='loss', got tuple"),
])
def test_what_is_no_dict_of_losses_is_refused(tmp_path, monkeypatch, returned, sentence):
    monkeypatch.setattr(Odd, 'returned', staticmethod(returned))
    runner, _ = make_runner(tmp_path)
    runner.model = Odd(afan=tap())
    with pytest.raises(ValueError, match=sentence):
        runner.train()
    assert runner.iter == 0


# ---------------------------------------------------------------- in the middle of one
class Freeze(Hook):
    """Freezes everything before the tap from an iteration on."""
    priority = 'VERY_HIGH'

    def __init__(self, names=('conv1', ), iteration=4):
        self.names, self.iteration = names, iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            for name in self.names:
                runner.model.get_submodule(name).requires_grad_(False)


def logged(runner):
    return {name for name in runner.message_hub.log_scalars if 'afan' in name or 'adv_' in name or 'clean' in name}


@pytest.mark.parametrize('hook', [dict(), dict(fit_threshold=1.0)])
def test_a_frozen_prefix_is_told_and_the_log_is_true(tmp_path, hook):
    runner, spy = make_runner(tmp_path, AdvFeatureHook(interval=2, **hook), 2, afan=dict(taps=TAPS, clean_weight=0.5))
    runner.register_hook(Freeze())
    with record_warnings() as warnings:
        runner.train()
    warnings = ours(warnings)
    assert len(warnings) == 1 and warnings[0].startswith("tap 's': the feature of 'conv1' has no gradient any more")
    scales = runner.message_hub.log_scalars['train/afan_strength_scale'].data[0].tolist()
    assert scales[-4:] == [0.0] * 4 and scales[3] > 0
    assert logged(runner) == {'train/afan_strength_scale', 'train/afan_s_no_gradient_share', 'train/clean_loss'}
    assert runner.message_hub.log_scalars['train/afan_s_no_gradient_share'].current() == 1.0


def test_what_is_off_again_leaves_no_old_values_in_the_log(tmp_path):
    runner, _ = make_runner(tmp_path, AdvFeatureHook(end=1), 2)
    runner.train()
    assert logged(runner) == {'train/afan_strength_scale'}
    runner, _ = make_runner(tmp_path / 'on', AdvFeatureHook(), 2)
    runner.train()
    assert {'train/adv_s_0.loss', 'train/clean_loss', 'train/afan_s_relative_size'} <= logged(runner)


@afan_model
class Rows(BaseModel):
    """The tap has no rows, or is not reached, by the iteration."""
    iteration = 0
    kind = 'rows'

    def __init__(self):
        super().__init__()
        self.conv1, self.rows, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = self.conv1(inputs).mean((2, 3))
        loss = nn.functional.cross_entropy(self.fc(x), data_samples)
        self.iteration += self.training and not self.afan.inside
        if Rows.iteration % 2 and self.kind == 'branch':
            return dict(loss=loss)
        rows = self.rows(x[:0] if Rows.iteration % 2 else x)
        return dict(loss=loss, loss_rows=self.fc(rows).square().sum())


@pytest.mark.parametrize('kind, name', [('rows', 'no_rows'), ('branch', 'not_reached')])
def test_no_rows_is_told_from_not_reached(tmp_path, monkeypatch, kind, name):

    class Count(Hook):

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            Rows.iteration = runner.iter

    monkeypatch.setattr(Rows, 'kind', kind)
    runner, _ = make_runner(tmp_path, AdvFeatureHook(interval=2), 2)
    runner.model = Rows(afan=dict(taps=dict(s=dict(module='rows', step_size=0.1))))
    runner.register_hook(Count(), 'VERY_HIGH')
    with record_warnings() as warnings:
        runner.train()
    shares = {key: scalar.current() for key, scalar in runner.message_hub.log_scalars.items() if key.endswith('_share')}
    assert shares[f'train/afan_s_{name}_share'] == 0.5
    assert [key for key in shares if '_no_' in key or '_not_' in key] == [f'train/afan_s_{name}_share']
    warnings = ours(warnings)
    assert len(warnings) == (kind == 'branch') and all("does not come to 'rows'" in text for text in warnings)


@afan_model
class Bypass(BaseModel):
    """A training step of its own that never computes the model's loss."""

    def __init__(self):
        super().__init__()
        self.conv1, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=self.fc(self.conv1(inputs).mean((2, 3))).square().mean())

    def train_step(self, data, optim_wrapper):
        loss = self.fc(self.conv1(torch.as_tensor(data['inputs'])).mean((2, 3))).square().mean()
        optim_wrapper.update_params(loss)
        return dict(loss=loss)


def test_a_training_step_that_goes_around_the_loss_is_told(tmp_path):
    runner, spy = make_runner(tmp_path, Hook(), 1)
    runner._hooks.remove(spy)
    runner.model = Bypass(afan=tap())
    with record_warnings() as warnings:
        runner.train()
    warnings = ours(warnings)
    assert len(warnings) == 1 and 'the training step of Bypass does not call the model' in warnings[0]


@pytest.mark.parametrize('fields', [{}, dict(reinject=True), dict(moments='group', num_groups=2, reinject=True),
                                    dict(moments='batch', channel_dim=1, reinject=True), dict(radius=0.05),
                                    dict(strength_sampling='random', strengths=(0.5, 1.0))])
def test_of_a_field_that_counts_nothing_is_said(fields):
    assert list(notices(AFANConfig.from_dict(tap(**fields)))) == []
