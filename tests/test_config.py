"""Wrong configs end in one sentence before a weight changes; right ones build what they say."""
from __future__ import annotations

import copy
import dataclasses
import math
import textwrap

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmafan.config import AFANConfig, LearnStrengthsConfig, TapConfig
from mmafan.validation import suggest

TAP = dict(module='backbone.layer1', step_size=0.1)


def afan(tap=None, **fields):
    return dict(taps=dict(s={**TAP, **(tap or {})}), **fields)


def assert_one_sentence(error, *fragments):
    text = str(error.value)
    assert '\n' not in text and len(text) < 500, text
    for fragment in fragments:
        assert fragment in text, f'{fragment!r} is not in: {text}'


# ---------------------------------------------------------------- wrong fields, one by one
NAN, INF = math.nan, math.inf
WRONG_TAP_FIELDS = [
    ('module', 3, 'the dotted name of a module'),
    ('module', '', "such as 'backbone.layer1'"),
    ('module', None, 'the dotted name of a module'),
    ('step_size', -0.1, 'a finite number of at least 0'),
    ('step_size', NAN, 'a finite number'),
    ('step_size', INF, 'a finite number'),
    ('step_size', '0.1', 'a finite number'),
    ('step_size', True, 'a finite number'),
    ('step_size', None, 'a finite number'),
    ('at', 'middle', "('output', 'input')"),
    ('at', 'inputs', "did you mean 'input' or"),
    ('step_unit', 'pixels', "('absolute', 'std')"),
    ('step_unit', 'absolut', "did you mean 'absolute'?"),
    ('num_steps', 0, 'an integer of at least 1'),
    ('every', 0, 'an integer of at least 1'),
    ('every', 2.5, 'an integer of at least 1'),
    ('num_steps', 1.0, 'an integer of at least 1'),
    ('num_steps', True, 'an integer of at least 1'),
    ('radius', 0, 'None or a number above 0'),
    ('radius', -1.0, 'None or a number above 0'),
    ('radius', 'big', 'None or a number above 0'),
    ('norm', 'l1', "('linf', 'l2')"),
    ('norm', 'Linf', "did you mean 'linf'"),
    ('random_start', 1, 'True or False'),
    ('clamp', (1, 0), '(low, high) with low < high'),
    ('clamp', (0, 1, 2), '(low, high)'),
    ('clamp', 1.0, '(low, high)'),
    ('clamp', (0, NAN), '(low, high)'),
    ('strengths', (0.5, 1.5), 'fractions in (0, 1]'),
    ('strengths', (0.0, 1.0), 'fractions in (0, 1]'),
    ('strengths', (-0.5, ), 'fractions in (0, 1]'),
    ('strengths', 2.0, 'fractions in (0, 1]'),
    ('strengths', (), 'fractions in (0, 1]'),
    ('strengths', '0.5', 'fractions in (0, 1]'),
    ('strengths', (0.5, NAN), 'fractions in (0, 1]'),
    ('strength_sampling', 'rand', "did you mean 'random'?"),
    ('reinject', 1, 'True, False or one of them per strength'),
    ('reinject', (0, 1), 'True, False'),
    ('reinject', 'no', 'True, False'),
    ('moments', 'chanel', "did you mean 'channel'?"),
    ('moments', 'layer', "('channel', 'batch', 'instance', 'group')"),
    ('moments', None, "('channel', 'batch', 'instance', 'group')"),
    ('num_groups', 0, 'an integer of at least 1'),
    ('channel_dim', 0, 'a dimension other than 0 (the samples)'),
    ('channel_dim', 1.0, 'None or a dimension'),
    ('weight', -1, 'a number of at least 0'),
    ('weight', (0.5, NAN), 'a number of at least 0'),
    ('weight', 'half', 'a number of at least 0'),
    ('losses', (), 'None or a list of loss names'),
    ('losses', (3, ), "such as ('loss_cls',)"),
    ('losses', '', 'None or a list of loss names'),
    ('attack_losses', 3, 'None or a list of loss names'),
    ('attack_losses', '', 'None or a list of loss names'),
    ('fraction', 0, 'a number in (0, 1]'),
    ('fraction', 1.5, 'a number in (0, 1]'),
    ('fraction', '1', 'a number in (0, 1]'),
    ('direction', 'random', "did you mean 'random_sign'?"),
]


@pytest.mark.parametrize('field, value, right', WRONG_TAP_FIELDS, ids=lambda v: repr(v)[:20])
def test_wrong_tap_field(field, value, right, tiny_config):
    for make in (AFANConfig.from_dict, lambda config: ROOT_MODELS.build(tiny_config(afan=config))):
        with pytest.raises(ValueError) as error:
            make(afan({field: value}))
        assert_one_sentence(error, f'afan.taps.s.{field} must be', repr(value), right)


WRONG_FIELDS = {
    # the sentence's parts, and the config they are about
    'no dict': (['afan must be a dict', "'backbone.layer1'"], 'backbone.layer1'),
    'list of taps': (['afan.taps must be a dict', 'at least one tap'], dict(taps=[TAP])),
    'no taps': (['afan.taps must be a dict', '{}'], dict(taps={})),
    'taps missing': (['afan.taps must be a dict', 'None'], dict(batch_norm='frozen')),
    'unknown field': (["afan has no field 'batchnorm'", "did you mean 'batch_norm'"], afan(batchnorm='frozen')),
    'unknown tap field':
    (["afan.taps.s has no field 'step_sise'", "did you mean 'step_size'"], afan(dict(step_sise=1))),
    'hidden tap field': (["afan.taps.s has no field 'where'"], afan(dict(where='here'))),
    'field that is no string': (['afan.taps.s has no field 3', 'valid names are'], afan({3: 1})),
    'tap that is no dict': (['afan.taps.s must be a dict', "'backbone.layer1'"], dict(taps=dict(s='backbone.layer1'))),
    'module missing': (["afan.taps.s needs the field 'module'"], dict(taps=dict(s=dict(step_size=1)))),
    'step_size missing': (["afan.taps.s needs the field 'step_size'"], dict(taps=dict(s=dict(module='neck')))),
    'tap name with loss': (['afan.taps', "'loss_tap'", "without 'loss'"], dict(taps=dict(loss_tap=TAP))),
    'tap name with dash': (['afan.taps', "'layer-1'", 'letters, digits, _'], dict(taps={'layer-1': TAP})),
    'tap name with dot': (['afan.taps', "'layer.1'"], dict(taps={'layer.1': TAP})),
    'tap name that is a number': (['afan.taps', '1', 'plain names'], dict(taps={1: TAP})),
    'hidden tap name': (['afan.taps', "'_a'", 'do not begin with _'], dict(taps=dict(_a=TAP))),
    'two taps on one module':
    (['afan.taps.b.module', 'afan.taps.a', "'backbone.layer1'"], dict(taps=dict(a=TAP, b=TAP))),
    'mask of another length': (['afan.taps.s.reinject', 'as many as the 3 strengths', 'got 2'],
                               afan(dict(strengths=(.2, .5, 1.), reinject=(True, False)))),
    'weights of another length': (['afan.taps.s.weight', 'as many as the 2 strengths', 'got 3'],
                                  afan(dict(strengths=(.5, 1.), weight=(1, 1, 1)))),
    'weights for one random pass': (['afan.taps.s.weight', '(0.5, 0.5)', "strength_sampling='random'"],
                                    afan(dict(strengths=(.5, 1.), weight=(.5, .5), strength_sampling='random'))),
    'random start without ball':
    (['afan.taps.s.random_start', 'needs afan.taps.s.radius'], afan(dict(random_start=True))),
    'clean weight of 0': (['afan.clean_weight must be a number above 0', 'got 0'], afan(clean_weight=0)),
    'clean weight as text': (['afan.clean_weight must be', "'1'"], afan(clean_weight='1')),
    'batch norm': (['afan.batch_norm must be one of', "'frozn'", "did you mean 'frozen'?"], afan(batch_norm='frozn')),
    'batch norm without a near name': (['afan.batch_norm', "'x'", "('shared', 'batch', 'frozen', 'separate')"],
                                       afan(batch_norm='x')),
    'batch norm that is no name': (['afan.batch_norm', "['frozen']"], afan(batch_norm=['frozen'])),
    'schedule': (['afan.schedule', "'twophase'", "'two_phase'"], afan(schedule='twophase')),
    'replay': (['afan.replay', "'yes'", 'True or False'], afan(replay='yes')),
    'learned strengths as a switch': (['afan.learn_strengths', 'True', 'a dict'], afan(learn_strengths=True)),
    'learned strengths, unknown':
    (["afan.learn_strengths has no field 'rate'", "'lr'"], afan(learn_strengths=dict(rate=1))),
    'learned strengths, lr': (['afan.learn_strengths.lr', '0', 'above 0'], afan(learn_strengths=dict(lr=0))),
    'learned strengths, momentum': (['afan.learn_strengths.momentum', '1', '[0, 1)'],
                                    afan(learn_strengths=dict(momentum=1))),
    'learned strengths, l1': (['afan.learn_strengths.l1', '-1', 'at least 0'], afan(learn_strengths=dict(l1=-1))),
    'learned strengths, init': (['afan.learn_strengths.init', "'x'"], afan(learn_strengths=dict(init='x'))),
}


@pytest.mark.parametrize('fragments, config', list(WRONG_FIELDS.values()), ids=list(WRONG_FIELDS))
def test_wrong_config(fragments, config, tiny_config):
    for make in (AFANConfig.from_dict, lambda value: ROOT_MODELS.build(tiny_config(afan=value))):
        with pytest.raises(ValueError) as error:
            make(config)
        assert_one_sentence(error, *fragments)


def test_number_of_wrong_configs():
    assert len(WRONG_TAP_FIELDS) + len(WRONG_FIELDS) >= 80
    assert {field for field, *_ in WRONG_TAP_FIELDS} == {f.name for f in dataclasses.fields(TapConfig)} - {'where'}


# ---------------------------------------------------------------- wrong for this model
WRONG_MODELS = {
    'unknown module': (ValueError, ['afan.taps.s.module', "'backbone.layr1'", "did you mean 'backbone.layer1'"],
                       dict(afan=afan(dict(module='backbone.layr1')))),
    'unknown module inside a layer': (ValueError, ['afan.taps.s.module', "'backbone.layer1.7'", "'backbone.layer1.1'"],
                                      dict(afan=afan(dict(module='backbone.layer1.7')))),
    'forgotten prefix': (ValueError, ['afan.taps.s.module', "'layer1'", 'AFANImageClassifier', "'backbone.layer1'"],
                         dict(afan=afan(dict(module='layer1')))),
    'afan missing':
    (ValueError, ['model.afan is missing', 'afan=dict(taps=', "type='ImageClassifier'"], dict(afan=None)),
    'unknown stock model': (KeyError, ['mmafan.AFANImageClasifier', 'AFANImageClassifier'],
                            dict(type='mmafan.AFANImageClasifier')),
    'a backbone':
    (TypeError, ['whole models', 'ImageClassifier', 'ResNet_CIFAR'], dict(type='mmafan.AFANResNet_CIFAR')),
}


@pytest.mark.parametrize('kind, fragments, changes', list(WRONG_MODELS.values()), ids=list(WRONG_MODELS))
def test_wrong_model(kind, fragments, changes, tiny_config):
    with pytest.raises(kind) as error:
        ROOT_MODELS.build(tiny_config(**changes))
    assert_one_sentence(error, *fragments)


WRONG_HOOKS = [
    ('begin', -1, 'an integer of at least 0'),
    ('begin', 0.5, 'an integer of at least 0'),
    ('end', 0, 'an integer of at least 1'),
    ('ramp', '3', 'an integer of at least 0'),
    ('interval', 0, 'an integer of at least 1'),
    ('by_epoch', 1, 'True or False'),
]


@pytest.mark.parametrize('field, value, right', WRONG_HOOKS, ids=lambda v: repr(v)[:12])
def test_wrong_hook_field(field, value, right):
    with pytest.raises(ValueError) as error:
        HOOKS.build(dict(type='mmafan.AdvFeatureHook', **{field: value}))
    assert_one_sentence(error, f'AdvFeatureHook.{field} must be', repr(value), right)


def test_hook_that_ends_before_it_begins():
    with pytest.raises(ValueError) as error:
        HOOKS.build(dict(type='mmafan.AdvFeatureHook', begin=3, end=3))
    assert_one_sentence(error, 'AdvFeatureHook.end must be above begin=3, got 3')


# ---------------------------------------------------------------- through a real Runner
class Returns(nn.Module):
    """Pass an image on, and say something else."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class OddModel(BaseModel):
    """A model whose modules do what a tap cannot use."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 4)
        self.winner = Returns(lambda x: x.argmax(1))
        self.words = Returns(lambda x: 'three words here')
        self.detached = Returns(torch.Tensor.detach)
        self.vector = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)
        self.aside = nn.Linear(4, 4)
        self.last = nn.Linear(4, 3)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = self.first(inputs.float())
        self.winner(x), self.words(x), self.detached(x), self.aside(x)
        x = self.last(self.vector(x))
        return dict(loss_odd=x.square().mean()) if mode == 'loss' else x


class OwnStepModel(OddModel):
    """A model with a training step of its own."""

    def train_step(self, data, optim_wrapper):
        return super().train_step(data, optim_wrapper)


@pytest.fixture
def odd_models():
    for cls in (OddModel, OwnStepModel):
        ROOT_MODELS.register_module(module=cls)
    yield
    for cls in (OddModel, OwnStepModel):
        del ROOT_MODELS._module_dict[cls.__name__]


class Images(Dataset):
    metainfo: dict = {}

    def __init__(self, batch, flat):
        self.batch, self.flat = batch, flat

    def __len__(self):
        return len(self.batch['data_samples'])

    def __getitem__(self, index):
        inputs = self.batch['inputs'][index]
        if self.flat:
            return dict(inputs=inputs.flatten()[:6])
        return dict(inputs=inputs, data_samples=self.batch['data_samples'][index])


@pytest.fixture
def runner_of(tmp_path, tiny_batch):
    """Return a function that makes a Runner for one epoch of two iterations."""

    def make(model, hooks=(), flat=False):
        return Runner(
            model=model,
            work_dir=str(tmp_path),
            train_dataloader=dict(
                batch_size=4, num_workers=0, dataset=Images(tiny_batch(8), flat),
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='default_collate' if flat else 'pseudo_collate')),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            custom_hooks=list(hooks),
            default_scope='mmpretrain',
            experiment_name=tmp_path.name,
            log_level='ERROR')

    return make


def parameters(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


HOOK = dict(type='mmafan.AdvFeatureHook')
ODD = dict(type='mmafan.AFANOddModel', flat=True)


def odd(tap, **fields):
    return dict(ODD, afan=dict(taps=dict(s=dict(step_size=0.1, **tap)), **fields))


WRONG_RUNS = {
    'frozen stages': (['afan.taps.s.module', "'backbone.layer1'", 'without gradient', 'frozen'],
                      dict(backbone=dict(frozen_stages=1)), [HOOK]),
    'frozen stages, without the hook':
    (['afan.taps.s.module', 'without gradient'], dict(backbone=dict(frozen_stages=1)), []),
    'begin after the last epoch':
    (['AdvFeatureHook.begin must be below the 1 epochs', 'got 1'], {}, [dict(HOOK, begin=1)]),
    'begin after the last iteration': (['AdvFeatureHook.begin must be below the 2 iterations', 'got 2'],
                                       {}, [dict(HOOK, begin=2, by_epoch=False)]),
    'learned strengths without the hook':
    (['afan.learn_strengths', 'AdvFeatureHook'],
     dict(afan=dict(taps=dict(a=dict(module='backbone.layer1', step_size=0.1),
                              b=dict(module='backbone.layer2', step_size=0.1)), learn_strengths={})), []),
    'unknown loss':
    (['afan.taps.s.losses', "'loss_bbox'", "['loss']"], dict(afan=afan(dict(losses=('loss_bbox', )))), [HOOK]),
    'groups that do not divide': (['afan.taps.s.num_groups', '4 channels', '3'],
                                  dict(afan=afan(dict(moments='group', num_groups=3, reinject=True))), [HOOK]),
    'channels out of range':
    (['afan.taps.s.channel_dim', '4'], dict(afan=afan(dict(channel_dim=4, reinject=True))), [HOOK]),
    'instances of a vector': (['afan.taps.s.moments', "'instance'"],
                              dict(afan=afan(dict(module='neck', moments='instance', reinject=True))), [HOOK]),
    'never called': (['afan.taps.s.module', "'unused'", 'never ran'], odd(dict(module='unused')), [HOOK]),
    'integers': (['afan.taps.s.module', "'winner'", 'no floating tensor'], odd(dict(module='winner')), [HOOK]),
    'no tensor': (['afan.taps.s.module', "'words'", 'str'], odd(dict(module='words')), [HOOK]),
    'no gradient': (['afan.taps.s.module', "'detached'", 'without gradient'], odd(dict(module='detached')), [HOOK]),
    'does not reach the loss': (['afan.taps.s.module', "'aside'"], odd(dict(module='aside')), [HOOK]),
    'own training step': (["afan.schedule='two_phase'", 'OwnStepModel', "'single_graph'"],
                          dict(odd(dict(module='vector'), schedule='two_phase'), type='mmafan.AFANOwnStepModel'),
                          [HOOK]),
}


@pytest.mark.parametrize('fragments, changes, hooks', list(WRONG_RUNS.values()), ids=list(WRONG_RUNS))
def test_run_stops_before_a_weight_changes(fragments, changes, hooks, runner_of, tiny_config, odd_models):
    flat = changes.get('flat', False)
    changes = {k: v for k, v in changes.items() if k != 'flat'}
    runner = runner_of(changes if flat else tiny_config(**changes), hooks, flat)
    runner.model.init_weights()
    before = parameters(runner.model)
    with pytest.raises(ValueError) as error:
        runner.train()
    assert_one_sentence(error, *fragments)
    assert runner.iter == 0
    for name, value in runner.model.named_parameters():
        assert torch.equal(value, before[name]), name
        assert value.grad is None or not value.grad.any(), name


@pytest.mark.parametrize('hooks', [[HOOK], []], ids=['hook', 'no hook'])
def test_right_run_changes_every_weight(hooks, runner_of, tiny_config):
    """The other side of the test above: its runner really trains."""
    runner = runner_of(tiny_config(backbone=dict(zero_init_residual=False)), hooks)
    runner.model.init_weights()
    before = parameters(runner.model)
    runner.train()
    assert runner.iter == 2
    same = [name for name, value in runner.model.named_parameters() if torch.equal(value, before[name])]
    assert same == []


@pytest.mark.parametrize('model', [dict(type='mmafan.AFANImageClassifier', afan=afan(dict(strengths=(2.0, )))),
                                   dict(type='mmafan.AFANImageClassifier', afan=None),
                                   dict(type='mmafan.AFANImageClasifier')], ids=['field', 'no afan', 'type'])
def test_runner_is_not_even_made(model, runner_of, tiny_config):
    with pytest.raises((ValueError, KeyError)) as error:
        runner_of(tiny_config(**model))
    assert_one_sentence(error)


# ---------------------------------------------------------------- right configs
def test_defaults():
    config = AFANConfig.from_dict(afan())
    tap = config.taps['s']
    assert dataclasses.asdict(tap) == dict(
        module='backbone.layer1', where='afan.taps.s', step_size=0.1, at='output', step_unit='absolute', num_steps=1,
        radius=None, norm='linf', random_start=False, clamp=None, direction='gradient',
        strengths=(1.0, ), strength_sampling='all', reinject=(False, ), moments='channel',
        num_groups=32, channel_dim=None, weight=(1.0, ), losses=None, attack_losses=None, fraction=1.0, every=1)
    assert (config.clean_weight, config.batch_norm, config.schedule, config.replay, config.learn_strengths) == (
        1.0, 'batch', 'auto', True, None)
    assert tap.active and tap.num_passes == 1


@pytest.mark.parametrize('fields', [
    dict(), dict(strengths=(0.5, 1.0), strength_sampling='random', weight=0.3), dict(strengths=(0.5, 1.0), weight=0.3)])
def test_a_list_of_modules_means_its_last(tiny_config, fields):
    model = ROOT_MODELS.build(tiny_config(afan=afan(dict(module='head.layers', **fields)),
                                          head=dict(type='StackedLinearClsHead', mid_channels=[8])))
    assert model.afan.config.taps['s'].module == 'head.layers.1'


@pytest.mark.parametrize('given, groups', [
    ('loss_cls', (('loss_cls', ), )),
    (['*cls*', '*bbox*'], (('*cls*', '*bbox*'), )),
    ([['*cls*'], ['*bbox*']], (('*cls*', ), ('*bbox*', ))),
    ([['*cls*'], '*bbox*'], (('*cls*', ), ('*bbox*', ))),
])
def test_attack_losses_are_one_list_or_several(given, groups):
    tap = AFANConfig.from_dict(afan(dict(attack_losses=given))).taps['s']
    assert tap.attack_losses == groups and tap.attacks_some


def test_one_entry_stands_for_every_strength():
    tap = AFANConfig.from_dict(afan(dict(strengths=[0.25, 0.5, 1], reinject=True, weight=0.7))).taps['s']
    assert tap.strengths == (0.25, 0.5, 1.0) and all(type(s) is float for s in tap.strengths)
    assert tap.reinject == (True, ) * 3 and tap.weight == (0.7, ) * 3


@pytest.mark.parametrize('fields, passes', [
    (dict(strengths=(0.25, 0.5, 1.0)), 3),
    (dict(strengths=(0.25, 0.5, 1.0), weight=(1, 0, 2)), 2),
    (dict(strengths=(0.25, 0.5, 1.0), strength_sampling='random'), 1),
    (dict(strengths=(0.25, 0.5, 1.0), weight=0), 0),
    (dict(strengths=(0.25, 1.0), weight=0, strength_sampling='random'), 0),
    (dict(strengths=0.5), 1),
], ids=repr)
def test_number_of_passes(fields, passes):
    tap = AFANConfig.from_dict(afan(fields)).taps['s']
    assert tap.num_passes == passes and tap.active == (passes > 0)


GOOD_VALUES = [dict(step_size=0), dict(step_size=np.float32(0.5)), dict(radius=1), dict(radius=0.1, random_start=True),
               dict(clamp=[-1, 1]), dict(channel_dim=-1), dict(losses='loss'), dict(fraction=0.01), dict(strengths=1),
               dict(module='inputs'), dict(norm='l2', num_steps=5), dict(direction='random_sign')]


@pytest.mark.parametrize('fields', GOOD_VALUES, ids=repr)
def test_good_values_at_the_edge(fields):
    tap = AFANConfig.from_dict(afan(fields)).taps['s']
    for name, value in fields.items():
        given = getattr(tap, name)
        assert given == (tuple(value) if isinstance(value, list) else given if isinstance(given, tuple) else value)


def test_clamp_losses_and_strengths_become_tuples():
    tap = AFANConfig.from_dict(afan(dict(clamp=[-1, 1], losses='loss', strengths=1))).taps['s']
    assert tap.clamp == (-1, 1) and tap.losses == ('loss', ) and tap.strengths == (1.0, )


def test_config_dict_means_the_same_and_is_left_alone():
    plain = afan(dict(strengths=[0.5, 1.0], losses=['loss']), learn_strengths=dict(lr=0.1), batch_norm='frozen')
    lazy = ConfigDict(copy.deepcopy(plain))
    config = AFANConfig.from_dict(lazy)
    assert config == AFANConfig.from_dict(plain)
    assert lazy == plain and config.learn_strengths == LearnStrengthsConfig(lr=0.1)
    assert AFANConfig.from_dict(config) is config


def test_tap_switched_off(tiny_classifier):
    taps = dict(s=TAP, t=dict(TAP, module='backbone.layer2'))
    config = AFANConfig.from_dict(dict(taps=dict(taps, s=None)))
    assert list(config.taps) == ['t']
    assert list(tiny_classifier(afan=dict(taps=dict(taps, s=None))).afan.taps) == ['t']
    assert tiny_classifier(afan=dict(taps=dict(s=None))).afan.taps == {}
    assert list(tiny_classifier(afan=dict(taps=dict(taps, s=dict(TAP, weight=0)))).afan.taps) == ['t']


def test_configs_are_immutable():
    config = AFANConfig.from_dict(afan(learn_strengths={}))
    for target, name in ((config, 'batch_norm'), (config.taps['s'], 'step_size'), (config.learn_strengths, 'lr')):
        before = getattr(target, name)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(target, name, 'something else')
        assert getattr(target, name) == before


def test_downstream_config_overrides_one_field_of_one_tap(tmp_path, tiny_config):
    (tmp_path / 'base.py').write_text(textwrap.dedent(f'''
        model = {tiny_config(afan=None)!r}
        model['afan'] = dict(
            batch_norm='frozen',
            taps=dict(
                a=dict(module='backbone.layer1', step_size=0.1, strengths=(0.5, 1.0), reinject=(False, True)),
                b=dict(module='backbone.layer2', step_size=0.2),
                c=dict(module='backbone.layer3', step_size=0.3)))
        '''))
    (tmp_path / 'child.py').write_text(textwrap.dedent('''
        _base_ = './base.py'
        model = dict(afan=dict(taps=dict(a=dict(step_size=0.7), c=None)))
        '''))
    config = Config.fromfile(str(tmp_path / 'child.py'))
    config.merge_from_dict({'model.afan.taps.b.weight': 0.25})
    built = ROOT_MODELS.build(config.model).afan.config
    a, b = built.taps['a'], built.taps['b']
    assert list(built.taps) == ['a', 'b'] and built.batch_norm == 'frozen'
    assert (a.step_size, a.module, a.reinject) == (0.7, 'backbone.layer1', (False, True))
    assert (b.step_size, b.weight) == (0.2, (0.25, ))


@pytest.mark.parametrize('name, valid, answer', [
    ('step_sise', ['step_size', 'weight'], "did you mean 'step_size'?"),
    ('laier1', ['layer1', 'layer2'], "did you mean 'layer1' or 'layer2'?"),
    ('zzz', ['a', 'b'], "valid names are 'a', 'b'"),
])
def test_suggest(name, valid, answer):
    assert suggest(name, valid) == answer


def test_learned_strengths_of_one_tap_are_refused(tiny_classifier):
    with pytest.raises(ValueError, match=r'afan\.learn_strengths needs at least two taps .* got \[\'s\'\]$'):
        tiny_classifier(afan=afan(learn_strengths={}))
