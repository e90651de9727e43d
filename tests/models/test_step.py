"""One step: how little of the package it runs, that it never waits for a device, and what it adds to a model."""
from __future__ import annotations

import gc
import sys
import weakref
from collections import Counter

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmafan import afan_model
from mmafan.models import step as steps
from mmafan.models.participation import participation_weight
from mmafan.models.schedules import runs_two_phase
from mmafan.models.step import Step
from mmafan.models.tap_attack import stock_losses
from mmafan.replay import Batch

from ..rule import Plain, batch_of, gradients, tapped
from ..training import record_warnings

pytest.importorskip('mmpretrain', reason='the classifiers are models of mmpretrain')
from mmpretrain.structures import DataSample  # noqa: E402


def wrapper_of(model):
    return OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))


def data_of(batch):
    return dict(inputs=list(batch['inputs']), data_samples=batch['data_samples'])


# ---------------------------------------------------------------- the host
def test_a_step_of_resnet18_runs_little_of_the_package(repo):
    cfg = Config.fromfile(str(repo / 'configs' / 'mmpretrain' / 'resnet18_afan_cifar10.py'))
    init_default_scope('mmpretrain')
    if 'data_preprocessor' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(cfg.model).train()
    model.afan.controls.measure = False  # the hook measures once in an interval
    wrapper = wrapper_of(model)
    images = torch.randint(256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float()
    samples = [DataSample().set_gt_label(k) for k in range(4)]
    files, calls, hooks = set(), [0], [0]

    def count(frame, event, _):
        name = frame.f_code.co_filename
        if event == 'call' and name.startswith(str(repo / 'mmafan')):
            files.add(name)
            calls[0] += 1
            if frame.f_code.co_name == '__exit__' and name.endswith('recording.py'):
                hooks[0] = len(frame.f_locals['self']._handles)

    for number in range(3):
        files.clear()
        calls[0] = 0
        sys.setprofile(count)
        try:
            log = model.train_step(dict(inputs=list(images), data_samples=samples), wrapper)
        finally:
            sys.setprofile(None)
    assert any(key.startswith('adv_') for key in log)
    assert len(files) <= 16, sorted(files)
    assert calls[0] <= 500, calls
    assert 1 <= hooks[0] <= 12


def test_a_model_gets_no_other_public_name(tiny_classifier):
    afan, stock = tiny_classifier(), tiny_classifier('ImageClassifier', None)
    assert {name for name in dir(afan) if not name.startswith('_')} - set(dir(stock)) == {'afan'}

    class Net(BaseModel):

        def forward(self, inputs, data_samples=None, mode='tensor'):
            return inputs

    assert {name for name in set(dir(afan_model(Net))) - set(dir(Net)) if not name.startswith('_')} == set()


# ---------------------------------------------------------------- its parts
def test_the_parts_are_the_clean_losses_and_each_pass(tiny_classifier, tiny_batch):
    taps = dict(a=dict(module='backbone.layer1', step_size=0.1, strengths=(0.5, 1.0), weight=(0.2, 0.0)),
                b=dict(module='backbone.layer2', step_size=0.1, strengths=(0.5, 1.0), weight=0.3))
    model, batch = tiny_classifier(afan=dict(taps=taps, clean_weight=0.5)).train(), Batch.of(tiny_batch())
    stock = stock_losses(model, batch)['loss']
    found = [(part.losses(), part.is_last) for part in
             Step(model, batch, lambda b: stock_losses(model, b)).parts(keeps_graph=True)]
    assert [(list(losses), is_last) for losses, is_last in found] == [
        (['clean_loss'], False), (['adv_a_0.loss'], False), (['adv_b_0.loss'], False), (['adv_b_1.loss'], True)]
    assert float(found[0][0]['clean_loss'].detach()) == pytest.approx(0.5 * float(stock.detach()), rel=1e-6)
    assert model.afan.controls.iteration == 1


@pytest.mark.parametrize('replay', [True, False], ids=['replay', 'rerun'])
@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
def test_the_prefix_runs_once_and_the_suffix_once_more_for_each_pass(schedule, replay, tiny_classifier, tiny_batch,
                                                                     monkeypatch):
    taps = dict(s=dict(module='backbone.layer1', step_size=0.1, strengths=(0.5, 1.0)))
    model = tiny_classifier(afan=dict(taps=taps, schedule=schedule, replay=replay)).train()
    names = {module: name for name, module in model.named_modules()}
    stock, counts, wrapper, batch = nn.Conv2d._conv_forward, Counter(), wrapper_of(model), data_of(tiny_batch(4, 16))

    def convolve(module, *args):
        counts[names[module]] += 1
        return stock(module, *args)

    monkeypatch.setattr(nn.Conv2d, '_conv_forward', convolve)
    for _ in range(3):
        counts.clear()
        model.train_step(batch, wrapper)
    late = ('backbone.layer2', 'backbone.layer3', 'backbone.layer4')
    assert {name.startswith(late) for name in counts} == {True, False}
    for name, number in counts.items():
        assert number == (3 if name.startswith(late) or not replay and 'layer1' not in name else 1), (name, counts)


# ---------------------------------------------------------------- no wait for a device
OPTIONS = [
    dict(strengths=(0.25, 1.0), reinject=(False, True), strength_sampling='random', step_unit='std'),
    dict(strengths=(0.25, 1.0), reinject=True, strength_sampling='random', fraction=0.5),
    dict(strengths=(0.5, 1.0), reinject=(False, True), moments='batch', num_steps=2, radius=0.1),
    dict(strengths=(0.5, 1.0), reinject=(False, True), strength_sampling='random', moments='batch'),
    dict(norm='l2', random_start=True, radius=0.3, num_steps=2, clamp=(-1.0, 1.0)),
    dict(direction='random_sign', moments='instance', reinject=True),
    dict(moments='group', num_groups=2, reinject=True),
]


class Copies(TorchDispatchMode):
    """Counts the copies from the host to the device ``meta`` that the host waits for, and values that are read."""

    def __init__(self):
        super().__init__()
        self.blocking, self.read = [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        if function is torch.ops.aten._to_copy.default and tensors[0].device.type == 'cpu':
            if torch.device(kwargs.get('device') or 'cpu').type == 'meta' and not kwargs.get('non_blocking'):
                self.blocking.append(tuple(tensors[0].shape))
        if function is torch.ops.aten.copy_.default and tensors[0].device.type != tensors[1].device.type:
            if not (args[2] if len(args) > 2 else kwargs.get('non_blocking', False)):
                self.blocking.append(tuple(tensors[1].shape))
        if function is torch.ops.aten._local_scalar_dense.default and tensors[0].device.type == 'meta':
            self.read.append(tuple(tensors[0].shape))
        return function(*args, **kwargs)


def meta_step(model, batch, wrapper=None):
    """Train one step of a model whose first has been, on the device that holds no values."""
    model.to('meta')
    model.afan.meters.pop_skipped_shares()
    labels = torch.tensor([int(sample.gt_label) for sample in batch['data_samples']]).to('meta')
    samples = [DataSample().set_gt_label(labels[k:k + 1]) for k in range(len(labels))]
    inputs = batch['inputs'].to('meta')
    wrapper = wrapper or wrapper_of(model)
    model.data_preprocessor.forward = lambda *_: dict(inputs=inputs, data_samples=samples)
    with Copies() as copies:
        log = model.train_step(dict(), wrapper)
    return log, copies


@pytest.mark.parametrize('fields', OPTIONS, ids=lambda f: '-'.join(f))
@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
def test_a_step_reads_no_value_and_waits_for_no_copy(schedule, fields, tiny_classifier, tiny_batch):
    """Nothing can be read on the meta device: the step would raise."""
    afan = dict(taps=dict(s=dict(dict(module='backbone.layer1', step_size=0.1), **fields)), schedule=schedule)
    model, batch = tiny_classifier(afan=afan).train(), tiny_batch()
    model.train_step(data_of(batch), wrapper_of(model))
    log, copies = meta_step(model, batch)
    assert any(key.startswith('adv_s_0.') for key in log)
    assert all(value.device.type == 'meta' for value in log.values())
    assert not copies.blocking and not copies.read


@pytest.mark.parametrize('policy', ['shared', 'batch', 'frozen', 'separate'])
def test_so_under_every_policy_of_the_norms(policy, tiny_classifier, tiny_batch):
    afan = dict(taps=dict(s=dict(module='backbone.layer1', step_size=0.1)), batch_norm=policy)
    model, batch = tiny_classifier(afan=afan).train(), tiny_batch()
    model.train_step(data_of(batch), wrapper_of(model))
    _, copies = meta_step(model, batch)
    assert not copies.blocking and not copies.read


def test_learned_strengths_live_on_the_device(tiny_classifier, tiny_batch):
    taps = {name: dict(module=f'backbone.layer{k}', step_size=0.1) for k, name in ((1, 'a'), (2, 'b'))}
    model, batch = tiny_classifier(afan=dict(taps=taps, learn_strengths=dict())).train(), tiny_batch()
    model.afan.controls.hooked = True
    wrapper = wrapper_of(model)
    model.train_step(data_of(batch), wrapper)
    model.afan.learned.step()
    for name in taps:
        model.afan.learned.factor_on(name, torch.device('meta'))
    _, copies = meta_step(model, batch)
    with copies:
        model.afan.learned.step(torch.ones((), device='meta'))
    assert not copies.blocking and not copies.read
    assert all(factor.device.type == 'meta' for factor in model.afan.learned.factors.values())


def test_what_is_counted_would_be_seen():
    with Copies() as copies:
        torch.zeros(2).to('meta')
        torch.zeros(3).to('meta', non_blocking=True)
        torch.empty(4, device='meta').copy_(torch.zeros(4))
    assert copies.blocking == [(2, ), (4, )]


@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
def test_no_step_keeps_its_features(tiny_classifier, tiny_batch, schedule):
    """Neither until the collector runs, nor for ever: what autograd's hooks hold, the collector does not see."""
    model = tiny_classifier(afan=dict(taps=dict(s=dict(module='backbone.layer1', step_size=0.1)), schedule=schedule))
    model.train()
    wrapper, batch, seen = wrapper_of(model), data_of(tiny_batch(4, 16)), []
    model.backbone.layer1.register_forward_hook(lambda module, inputs, output: seen.append(weakref.ref(output)))
    for _ in range(3):
        model.train_step(batch, wrapper)
    gc.collect()
    seen.clear()
    gc.disable()
    try:
        model.train_step(batch, wrapper)
        assert seen and [reference() for reference in seen] == [None] * len(seen)
    finally:
        gc.enable()


def test_a_replay_that_cannot_begin_leaves_nothing_behind(tiny_classifier, tiny_batch, monkeypatch):
    model = tiny_classifier(afan=dict(taps=dict(s=dict(module='backbone.layer1', step_size=0.1)))).train()
    wrapper, batch = wrapper_of(model), data_of(tiny_batch(4, 16))
    for _ in range(3):
        model.train_step(batch, wrapper)
    with monkeypatch.context() as patch:
        patch.setattr('mmafan.replay.replay.PassKind', None)  # what the prefix is entered with
        with pytest.raises(AttributeError):
            model.train_step(batch, wrapper)
    assert torch.is_grad_enabled()
    assert not [name for name, module in model.named_modules() if 'forward' in vars(module)]
    model.train_step(batch, wrapper)


@pytest.mark.parametrize('schedule, wanted', [('two_phase', True), ('auto', True), ('single_graph', False),
                                              ('joined', False)])
def test_the_schedule_is_the_one_that_is_asked_for(tiny_classifier, schedule, wanted):
    taps = dict(s=dict(module='backbone.layer1', step_size=0.1))
    model = tiny_classifier(afan=dict(taps=taps, schedule=schedule)).train()
    assert runs_two_phase(model, wrapper_of(model)) is wanted


@pytest.mark.parametrize('measure, every, is_there', [(True, 1, True), (False, 2, True), (False, 1, False)])
def test_the_size_of_a_perturbation_is_measured_when_it_is_asked_for_or_seldom_there(
        tiny_classifier, tiny_batch, measure, every, is_there):
    taps = dict(s=dict(module='backbone.layer1', step_size=0.1, every=every))
    model = tiny_classifier(afan=dict(taps=taps)).train()
    model.afan.controls.measure = measure
    model.train_step(data_of(tiny_batch()), wrapper_of(model))
    assert ('s_relative_size' in model.afan.meters.diagnostics) is is_there


# ---------------------------------------------------------------- a step of a plain model
class Own(Plain):
    """Its tap may get no row, not be reached, or run twice."""
    way = ''

    def losses(self, inputs, data_samples):
        x = self.stem(inputs)
        y = x if self.way in ('not reached', 'no rows') else self.mid(x)
        if self.way == 'no rows':
            y = x + self.mid(x[:0]).sum()
        if self.way == 'twice':
            y = y + self.mid(x.flip(3))
        return dict(loss_a=self.classify(y, data_samples))


def test_what_needs_the_hook_is_said_before_the_first_step():
    model = tapped(Own, step_size=0.1, afan=dict(batch_norm='separate'))
    with record_warnings() as warnings:
        for _ in range(2):
            gradients(model, batch_of())
    assert warnings == ["afan.batch_norm='separate' without AdvFeatureHook: the auxiliary norms will not be in the "
                        'checkpoints, and a resumed run starts them anew']
    taps = dict(a=dict(module='mid', step_size=1e-30), b=dict(module='stem', step_size=0.1))
    model = tapped(Own, afan=dict(taps=taps, learn_strengths=dict()))
    sentence = (r"^afan\.learn_strengths needs custom_hooks=\[dict\(type='mmafan\.AdvFeatureHook'\)\], which "
                r'updates the learned strengths$')
    with pytest.raises(ValueError, match=sentence):
        gradients(model, batch_of())
    model = tapped(Own, afan=dict(taps=taps, learn_strengths=dict(), batch_norm='separate'))
    model.afan.controls.hooked = True
    with record_warnings() as warnings:  # the hook has said what there is to say
        gradients(model, batch_of())
    assert not warnings


def test_norms_are_those_of_a_loaded_model_before_the_first_step(monkeypatch):
    model, restored = tapped(Own), []
    monkeypatch.setattr(model.afan.norms, 'restore', restored.append)
    for _ in range(2):
        gradients(model, batch_of())
    assert restored == [model]


@pytest.mark.parametrize('reason, sentence', [
    ('not reached', "tap 't': a batch does not come to 'mid', so that A-FAN is off there in such steps"),
    ('no gradient', "tap 't': the feature of 'mid' has no gradient any more (is everything before it frozen now?), so "
                    'that A-FAN is off there'),
    ('no rows', None),
    ('nothing trains', "tap 't': nothing that trains is left after 'mid', so that its adversarial losses train "
                       'nothing'),
])
def test_a_tap_that_becomes_idle_is_counted_and_told_once(reason, sentence):
    model = tapped(Own, step_size=0.1, afan=dict(clean_weight=0.5))
    gradients(model, batch_of())
    model.way = reason
    for part in dict({'no gradient': (model.stem, model.mid), 'nothing trains': (model.head, )}).get(reason, ()):
        part.requires_grad_(False)
    with record_warnings() as warnings:
        logs = [gradients(model, batch_of())[1] for _ in range(2)]
    assert warnings == ([] if sentence is None else [sentence])
    assert model.afan.meters.num_idle == {('t', reason): 2}
    assert all([name for name in log if 'adv' in name] == [] for log in logs)
    with torch.no_grad():
        stock = float(Own.losses(model, **batch_of())['loss_a'])
    frozen = reason == 'no gradient'
    assert logs[1]['loss'] == pytest.approx((1.0 if frozen else 0.5) * stock)
    assert model.afan.meters.frozen is frozen
    assert model.afan.controls.iteration == 3


def test_a_tap_that_has_never_worked_is_not_said_to_have_stopped():
    model = tapped(Own, step_size=0.1)
    model.way = 'no rows'
    with record_warnings() as warnings:
        gradients(model, batch_of())
    assert not warnings and model.afan.facts is None and model.afan.meters.num_idle == {('t', 'no rows'): 1}


def test_a_step_frozen_at_one_of_two_taps_keeps_the_weight_of_the_clean_losses():
    taps = dict(a=dict(module='stem', step_size=0.1), b=dict(module='mid', step_size=0.1))
    model = tapped(Own, afan=dict(taps=taps, clean_weight=0.5))
    gradients(model, batch_of())
    model.stem.requires_grad_(False)
    log = gradients(model, batch_of())[1]
    assert not model.afan.meters.frozen and 'adv_b_0.loss_a' in log and 'adv_a_0.loss_a' not in log
    with torch.no_grad():
        assert log['loss_a'] == pytest.approx(0.5 * float(Own.losses(model, **batch_of())['loss_a']))


@pytest.mark.parametrize('fields, number', [({}, 4), (dict(num_steps=3), 12), (dict(way='twice'), 8)], ids=str)
def test_the_samples_that_are_attacked_are_counted(fields, number):
    fields = dict(fields)
    way = fields.pop('way', '')
    model = tapped(Own, step_size=0.1, **fields)
    model.way = way
    gradients(model, batch_of())
    assert model.afan.meters.num_samples == dict(t=number) and int(model.afan.meters.num_skipped['t']) == 0


@pytest.mark.parametrize('every, fraction', [(1, 1.0), (3, 1.0), (1, 0.125), (2, 0.125)])
def test_an_adversarial_term_weighs_what_its_seldom_steps_leave_out(every, fraction):
    """With a step near 0 each pass has the loss of its samples."""
    model = tapped(Own, strengths=(0.5, 1.0), weight=(0.25, 2.0), every=every, fraction=fraction)
    seen, weight, number = [], 1.0, every
    if fraction < 1:
        weight = participation_weight(4, model.afan.config.taps['t'], model.afan.norms.least_samples)
        assert weight > 1
        number *= 2
    stock = model.classify

    def classify(feature, labels):
        seen.append(float(stock(feature, labels).detach()))
        return stock(feature, labels)

    found = []
    for _ in range(2 * number):
        model.classify = classify
        seen.clear()
        log = gradients(model, batch_of())[1]
        terms = [log[f'adv_t_{k}.loss_a'] for k in range(2) if f'adv_t_{k}.loss_a' in log]
        found.append(len(terms))
        assert terms == [pytest.approx(share * every * weight * seen[-1]) for share in (0.25, 2.0)[:len(terms)]]
    assert sum(found) == 4 and max(found) == 2


def test_what_is_drawn_depends_on_the_step_the_process_and_the_tap(monkeypatch):
    """Samples that take part are counted in steps of the tap."""
    drawn, chosen = [], []
    derive, choose = steps.derived_generator, steps.choose_samples
    monkeypatch.setattr(steps, 'get_rank', lambda: 3)
    monkeypatch.setattr(steps, 'derived_generator', lambda *key: (drawn.append(key), derive(*key))[1])
    monkeypatch.setattr(steps, 'choose_samples', lambda *key: (chosen.append((key[0], *key[2:])), choose(*key))[1])
    taps = dict(a=dict(module='stem', step_size=0.1, direction='random_sign'),
                b=dict(module='mid', step_size=0.1, every=2, fraction=0.5))
    model = tapped(Own, afan=dict(taps=taps))
    for _ in range(3):
        gradients(model, batch_of())
    assert drawn == [(0, 3, 0, 1), (0, 3, 1, 1), (1, 3, 0, 1), (2, 3, 0, 1), (2, 3, 1, 1)]
    assert chosen == [(4, 1, 0, 3, 1), (4, 1, 1, 3, 1)]


def test_a_tap_without_samples_leaves_the_others_on():
    taps = dict(a=dict(module='stem', step_size=0.1, fraction=0.125), b=dict(module='mid', step_size=0.1))
    model, found = tapped(Own, afan=dict(taps=taps)), []
    for _ in range(4):
        log = gradients(model, batch_of())[1]
        found.append('adv_a_0.loss_a' in log)
        assert 'adv_b_0.loss_a' in log
    assert sorted(found) == [False, False, True, True]


def test_what_a_step_shows_is_kept_with_what_was_known():
    """A tap that only a later step comes to is proven beside those that were."""
    taps = dict(a=dict(module='stem', step_size=0.1), b=dict(module='mid', step_size=0.1))
    model = tapped(Own, afan=dict(taps=taps))
    model.way = 'not reached'
    gradients(model, batch_of())
    assert model.afan.facts.proven == {'a'} and model.afan.num_waits == 0
    before = dict(model.afan.facts.before)
    model.way = ''
    gradients(model, batch_of())
    facts = model.afan.facts
    assert facts.proven == {'a', 'b'} and {**facts.before, **before} == facts.before
    assert facts.num_calls == dict(a=1, b=1)
    for way, number in (('twice', 2), ('not reached', 2), ('', 1)):
        model.way = way
        gradients(model, batch_of())
        assert model.afan.facts.num_calls == dict(a=1, b=number)


class Growing(Own):
    """In later epochs it has a loss before the tap, then one after it, then a constant."""
    epoch = 0

    def losses(self, inputs, data_samples):
        x = self.stem(inputs)
        y = self.mid(x)
        late = self.head(y.mean((2, 3))).square().mean()
        more = dict(loss_early=x.square().mean(), loss_late=late, loss_constant=y.new_ones(()))
        return dict(loss_a=self.classify(y, data_samples), **dict(list(more.items())[:self.epoch]))


def test_a_loss_that_has_not_been_there_is_decided_in_the_step_that_shows_it():
    model = tapped(Growing, step_size=0.1)
    for epoch, own, others in ((0, 'a', ''), (1, 'a', 'early'), (1, 'a', 'early'), (2, 'a late', 'early'),
                               (3, 'a late', 'early'), (0, 'a late', 'early')):
        model.epoch = epoch
        log = gradients(model, batch_of())[1]
        facts = model.afan.facts
        assert facts.own_losses == dict(t={f'loss_{name}' for name in own.split()})
        assert facts.other_losses == dict(t={f'loss_{name}' for name in others.split()})
        assert ('adv_t_0.loss_late' in log) is (epoch >= 2) and 'adv_t_0.loss_early' not in log
