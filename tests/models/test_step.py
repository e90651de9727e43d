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
from mmafan.models.schedules import runs_two_phase
from mmafan.models.step import Step
from mmafan.models.tap_attack import stock_losses
from mmafan.replay import Batch

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
