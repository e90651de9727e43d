"""The ways to descend the parts of a step: which one is taken, and that each gives the same gradients."""
from __future__ import annotations

import functools
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import nn

from mmafan.models import schedules
from mmafan.models.schedules import (check_not_compiled, owns_run_forward, owns_step, refuse_compile, runs_two_phase,
                                     train_two_phase, zero_of)
from mmafan.replay import PassKind, current_pass

from ..rule import Plain, batch_of, build
from ..training import record_warnings

TAP = dict(module='mid', step_size=0.1, strengths=(0.5, 1.0))


class Net(Plain):
    """A part that only the clean pass needs, and one that no pass does."""

    def build(self):
        super().build()
        self.aux, self.idle = nn.Linear(4, 2), nn.Linear(2, 2)

    def losses(self, inputs, data_samples):
        x = self.stem(inputs)
        return dict(loss_a=self.classify(self.mid(x), data_samples), loss_b=self.aux(x.mean((2, 3))).square().mean(),
                    accuracy=x.detach().mean())


def net(stock=Net, **afan):
    return build(stock, **dict(dict(taps=dict(t=TAP), clean_weight=0.5), **afan))


class Wrapped(nn.Module):
    """Calls the model, as a distributed wrapper does, and notes what comes back."""

    def __init__(self, module):
        super().__init__()
        self.module, self.returned, self.modes = module, [], []

    def forward(self, *args, **kwargs):
        self.modes.append(dict(kwargs))
        self.returned.append(self.module(*args, **kwargs))
        return dict(self.returned[-1])


class Noting(OptimWrapper):
    """Notes the gradients and the context of each update."""

    def __init__(self, model, **kwargs):
        super().__init__(torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0), **kwargs)
        self.model, self.found, self.contexts, self.backwards = model, [], [], []

    def step(self, **kwargs):
        self.found.append({n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None})
        super().step(**kwargs)

    @contextmanager
    def optim_context(self, model):
        self.contexts.append(type(model).__name__)
        with super().optim_context(model):
            yield


Noting.__module__ = 'mmengine.optim'  # nothing of its own with a loss


def trained(model, how, steps=2):
    """Train some steps in a way; return the logs, the gradients and the wrapper."""
    optimizer, wrapper = Noting(model), Wrapped(model)
    train = dict(step=lambda data: model.train_step(data, optimizer),
                 two_phase=lambda data: train_two_phase(model, data, optimizer),
                 wrapped=lambda data: train_two_phase(model, data, optimizer, wrapper),
                 single_graph=lambda data: train_two_phase(model, data, optimizer, wrapper, single_graph=True))[how]
    torch.manual_seed(0)
    logs = [{name: float(value.detach()) for name, value in train(batch_of(seed=seed)).items()}
            for seed in range(steps)]
    return logs, optimizer.found, wrapper


# ---------------------------------------------------------------- the ways agree
@pytest.mark.parametrize('how', ['two_phase', 'wrapped', 'single_graph'])
def test_every_way_has_the_losses_and_the_gradients_of_a_single_graph(how):
    logs, expected, _ = trained(net(schedule='single_graph'), 'step')
    model = net()
    own, found, wrapper = trained(model, how)
    assert own == [pytest.approx(log, rel=1e-9) for log in logs] and len(found) == len(expected) == 2
    assert own[0]['loss'] == pytest.approx(sum(value for name, value in own[0].items() if name.count('loss_')))
    for gradients, right in zip(found, expected):
        assert right.keys() == {n for n, _ in model.named_parameters() if not n.startswith('idle.')}
        for name, gradient in gradients.items():
            assert torch.allclose(gradient, right.get(name, torch.zeros_like(gradient)), rtol=1e-9, atol=1e-15), name
        alone = how == 'two_phase'
        assert gradients.keys() == (right.keys() if alone else dict(model.named_parameters()).keys())
    assert 'forward' not in vars(model) and not model.afan.wrapped
    # The wrapper's forward is called once a step, and what it returns depends on every parameter.
    assert len(wrapper.returned) == (0 if how == 'two_phase' else 2)
    assert all(mode == dict(mode='loss') for mode in wrapper.modes)
    for losses in wrapper.returned:
        number = 2 if how == 'single_graph' else 1
        assert len([name for name in losses if name.startswith('adv_') and 'loss' in name]) == number
        assert ('loss_a' in losses) is (how == 'single_graph')
        assert float(losses[schedules.ZERO].detach()) == 0


def test_what_does_not_train_has_no_gradient_under_a_wrapper_either():
    model = net()
    model.aux.requires_grad_(False)
    _, found, _ = trained(model, 'wrapped', steps=1)
    assert {name.split('.')[0] for name in found[0]} == {'stem', 'mid', 'head', 'idle'}


def test_the_parts_run_in_the_context_of_the_optimizer_and_count_as_one_iteration():
    model = net()
    optimizer, wrapper = Noting(model, accumulative_counts=2), Wrapped(model)
    optimizer.loss_scaler = object()
    for seed in range(2):
        train_two_phase(model, batch_of(seed=seed), optimizer, wrapper)
    assert optimizer._inner_count == 2 and len(optimizer.found) == 1
    assert optimizer.contexts.count('Wrapped') == 2 and optimizer.contexts.count('AFANNet') >= 8
    assert model.afan.controls.loss_scaler is optimizer.loss_scaler
    assert model.afan.controls.iteration == 2


def test_the_backward_of_a_part_runs_in_its_pass():
    """What is recomputed there finds the policy of the norms."""
    model, seen = net(batch_norm='frozen'), []
    model.head.register_full_backward_hook(lambda *_: seen.append((current_pass().kind, current_pass().batch_norm)))
    trained(model, 'two_phase', 2)
    assert seen[-3:] == [(kind, 'frozen') for kind in (PassKind.CLEAN, PassKind.ADVERSARIAL, PassKind.ADVERSARIAL)]


@pytest.mark.parametrize('how', ['two_phase', 'wrapped', 'single_graph'])
def test_a_step_that_fails_leaves_no_gradient(how):
    model = net(learn_strengths=dict(), taps=dict(t=TAP, u=dict(TAP, module='stem')))
    model.afan.controls.hooked = True
    trained(model, how, 1)
    late = Noting(model)

    def fail(*_, **__):
        assert any(p.grad is not None and p.grad.any() for p in model.parameters())
        assert all(factor.grad is not None for factor in model.afan.learned.factors.values())
        raise KeyboardInterrupt

    late.step = fail
    with pytest.raises(KeyboardInterrupt):
        train_two_phase(model, batch_of(), late, None if how == 'two_phase' else Wrapped(model), how == 'single_graph')
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())
    assert all(factor.grad is None for factor in model.afan.learned.factors.values())
    assert 'forward' not in vars(model) and not model.afan.wrapped


def test_a_wrapper_that_fails_leaves_the_model_as_it_was():
    model = net()
    wrapper = Wrapped(model)
    wrapper.forward = functools.partial(next, iter(()))
    with pytest.raises(TypeError):
        train_two_phase(model, batch_of(), Noting(model), wrapper)
    assert 'forward' not in vars(model) and not model.afan.wrapped


def test_a_step_without_an_adversarial_pass_updates_once():
    """In two phases nothing is left to descend after the clean losses."""
    model = net()
    _, found, _ = trained(model, 'two_phase', 1)
    for module in (model.stem, model.mid):
        module.requires_grad_(False)
    stock = build(Net)
    stock.load_state_dict(model.state_dict())
    stock.stem.requires_grad_(False), stock.mid.requires_grad_(False)
    _, found, _ = trained(model, 'two_phase', 1)
    expected = Noting(stock)
    stock.train_step(batch_of(seed=0), expected)
    assert len(found) == len(expected.found) == 1 and found[0].keys() == expected.found[0].keys()
    assert all(torch.allclose(value, expected.found[0][name], rtol=1e-9, atol=0) for name, value in found[0].items())


@pytest.mark.parametrize('how', ['two_phase', 'wrapped'])
def test_passes_that_nothing_trains_in_add_nothing(how):
    """Neither one that others follow nor the last one."""
    model, stock = net(clean_weight=1.0), build(Net)
    trained(model, how, 1)
    for one in (model, stock):
        one.head.requires_grad_(False)
    found, expected = trained(model, how, 1)[1][0], trained(stock, 'step', 1)[1][0]
    trained_ones = {name for name, p in model.named_parameters() if p.requires_grad}
    assert found.keys() == (expected.keys() if how == 'two_phase' else trained_ones)
    assert all(torch.allclose(value, expected.get(name, torch.zeros_like(value))) for name, value in found.items())


class OwnRun(Net):
    """Its data go another way to the forward."""

    def _run_forward(self, data, mode):
        return self(data['inputs'] * 2, data['data_samples'], mode=mode)


@pytest.mark.parametrize('how, factor', [('two_phase', 2), ('wrapped', 1), ('single_graph', 1)])
def test_a_wrapper_calls_the_forward_whatever_the_model_has(how, factor):
    right = sum(value for name, value in build(Net).losses(
        batch_of()['inputs'] * factor, batch_of()['data_samples']).items() if 'loss' in name)
    log = trained(net(OwnRun, clean_weight=1.0), how, 1)[0][0]
    assert log['loss_a'] + log['loss_b'] == pytest.approx(float(right.detach()))


@pytest.mark.parametrize('how', ['two_phase', 'wrapped', 'single_graph'])
def test_what_the_preprocessor_makes_of_the_data_is_trained_on(how):
    model = net()
    model.data_preprocessor.forward = lambda data, training: batch_of(seed=7 if training else 8)
    assert trained(model, how, 1)[0][0]['loss'] == pytest.approx(trained_alone(7))


def trained_alone(seed):
    return float(sum(v for k, v in net(schedule='single_graph')(**batch_of(seed=seed), mode='loss').items()
                     if 'loss' in k).detach())


def test_our_wrapper_asks_for_a_single_graph_without_a_word(monkeypatch):
    monkeypatch.setattr(schedules, 'is_distributed', lambda: True)
    with record_warnings() as warnings:
        for schedule in ('auto', 'two_phase'):
            trained(net(schedule=schedule), 'single_graph', 1)
    assert not warnings


def test_the_zero_that_depends_on_parameters():
    parameters = [torch.ones(4, dtype=torch.bfloat16, requires_grad=True), torch.ones(2, 3, requires_grad=True),
                  torch.ones((), dtype=torch.float64, requires_grad=True)]
    zero = zero_of(parameters)
    assert float(zero.detach()) == 0 and zero.dtype == torch.float32 and zero.dim() == 0
    (zero * 2).backward()
    for parameter in parameters:
        assert parameter.grad.shape == parameter.shape and parameter.grad.dtype == parameter.dtype
        assert not parameter.grad.any()
    assert zero_of([torch.ones(2, device='meta', requires_grad=True)]).device.type == 'meta'


# ---------------------------------------------------------------- which way is taken
class OwnStep(Net):

    def train_step(self, data, optim_wrapper):
        return super().train_step(data, optim_wrapper)


def own(name):
    """Make an optimizer wrapper with a method of its own."""
    return type(f'Own{name}', (OptimWrapper, ), {name: lambda self, *args, **kwargs: None})


OWN_UPDATE, OWN_BACKWARD, OWN_SCALE = map(own, ('update_params', 'backward', 'scale_loss'))


@pytest.mark.parametrize('stock, wrapper, schedule, expected', [
    (Net, OptimWrapper, 'auto', True), (Net, OptimWrapper, 'two_phase', True), (Net, OptimWrapper, 'joined', False),
    (Net, OptimWrapper, 'single_graph', False), (Net, OWN_UPDATE, 'auto', False), (Net, OWN_BACKWARD, 'auto', False),
    (Net, OWN_SCALE, 'auto', False), (Net, OWN_BACKWARD, 'two_phase', True), (Net, OWN_SCALE, 'two_phase', True),
    (Net, OWN_UPDATE, 'single_graph', False), (OwnStep, OptimWrapper, 'auto', False),
    (Net, SimpleNamespace, 'auto', False), (OwnStep, OptimWrapper, 'single_graph', False),
    (Net, OWN_UPDATE, 'two_phase', 'Ownupdate_params has an update_params of its own, which must see the whole loss'),
    (OwnStep, OptimWrapper, 'two_phase', 'OwnStep has a train_step of its own'),
    (OwnStep, OWN_UPDATE, 'two_phase', 'OwnStep has a train_step of its own'),
    (Net, SimpleNamespace, 'two_phase', 'the optimizer wrapper is a SimpleNamespace'),
], ids=str)
def test_the_way_that_is_taken(stock, wrapper, schedule, expected):
    model = net(stock, schedule=schedule)
    made = wrapper() if wrapper is SimpleNamespace else wrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    assert owns_step(model, made) is (stock is Net and wrapper is not SimpleNamespace)
    if isinstance(expected, str):
        sentence = f"afan.schedule='two_phase' is not possible here ({expected}), use 'single_graph'"
        with pytest.raises(ValueError) as error:
            runs_two_phase(model, made)
        assert str(error.value) == sentence
    else:
        assert runs_two_phase(model, made) is expected
    model.afan.controls.strength_scale = 0.0
    assert runs_two_phase(model, made) is False


def test_a_way_of_its_own_from_the_data_to_the_forward_is_seen():

    class Own(Net):

        def _run_forward(self, data, mode):
            return super()._run_forward(data, mode)

    assert owns_run_forward(Own) and not owns_run_forward(Net) and not owns_run_forward(BaseModel)


# ---------------------------------------------------------------- single-graph
def losses_of(model):
    return model(**batch_of(), mode='loss')


def is_stock(losses):
    return set(losses) == {'loss_a', 'loss_b', 'accuracy'} and float(losses['loss_a'].detach()) == pytest.approx(
        float(losses_of(build(Net))['loss_a'].detach()))


def test_the_losses_are_the_stock_ones_where_nothing_trains():
    model = net()
    with torch.no_grad():
        assert is_stock(losses_of(model))
    assert is_stock(losses_of(model.eval()))
    assert not is_stock(losses_of(model.train()))
    model.afan.inside = True
    assert is_stock(losses_of(model))


def test_while_a_fan_is_off_nothing_is_recorded_after_the_first_step():
    model, hooks, inside = net(), [], []
    model.mid.register_forward_hook(lambda module, *_: hooks.append(len(module._forward_hooks)))
    model.afan.controls.strength_scale = 0.0
    assert is_stock(losses_of(model)) and model.afan.facts is not None and hooks[0] > 1
    hooks.clear()
    model.mid.register_forward_hook(lambda *_: inside.append(model.afan.inside))
    assert is_stock(losses_of(model)) and hooks == [2] and inside == [False]
    assert model.afan.controls.iteration == 0


def test_steps_that_no_tap_takes_part_in_have_the_weight_of_the_clean_losses():
    model = net(taps=dict(t=dict(TAP, every=2)))
    stock = float(losses_of(build(Net))['loss_a'].detach())
    for number in range(4):
        found = losses_of(model)
        assert any(name.startswith('adv_') for name in found) is (number % 2 == 0)
        assert float(found['loss_a'].detach()) == pytest.approx(0.5 * stock)
        assert model.afan.controls.iteration == number + 1
    model.afan.controls.strength_scale = 0.0
    assert is_stock(losses_of(model)) and model.afan.controls.iteration == 4


def test_the_first_step_may_be_one_that_no_tap_takes_part_in():
    model = net(taps=dict(t=dict(TAP, every=2)))
    model.afan.controls.iteration = 1
    stock = float(losses_of(build(Net))['loss_a'].detach())
    assert float(losses_of(model)['loss_a'].detach()) == pytest.approx(0.5 * stock)
    assert model.afan.controls.iteration == 2


def test_a_distributed_wrapper_that_is_not_ours(monkeypatch):
    monkeypatch.setattr(schedules, 'is_distributed', lambda: True)
    sentence = (r"^afan\.schedule='two_phase' is not possible under the distributed wrapper of the model, which owns "
                r"the backward; use 'auto', or model_wrapper_cfg=dict\(type='mmafan\.AFANDistributedDataParallel'\)$")
    model = net(schedule='two_phase')
    with pytest.raises(ValueError, match=sentence):
        losses_of(model)
    model.afan.wrapped = True
    assert 'adv_t_1.loss_a' in losses_of(model)
    for schedule, count in (('auto', 1), ('single_graph', 0)):
        model = net(schedule=schedule)
        with record_warnings() as warnings:
            for _ in range(2):
                assert 'adv_t_1.loss_a' in losses_of(model)
        assert len(warnings) == count
        assert all(text.startswith('A-FAN runs with the single-graph schedule, because the dis') for text in warnings)
    model = net()
    model.afan.wrapped = True
    with record_warnings() as warnings:
        losses_of(model)
    assert not warnings


class Norms(Plain):
    """A norm before the tap and one after it."""

    def build(self):
        super().build()
        self.early, self.late = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def losses(self, inputs, data_samples):
        x = self.mid(self.early(self.stem(inputs)))
        return dict(accuracy=x.detach().mean(), loss_a=self.classify(self.late(x), data_samples))


@pytest.mark.parametrize('is_distributed', [True, False])
@pytest.mark.parametrize('strength', [0.0, 1.0])
def test_auxiliary_norms_take_part_in_every_step_of_several_processes(monkeypatch, strength, is_distributed):
    """The wrapper waits for the gradient of each parameter; that of the prefix is zero, and changes no loss."""
    model = net(Norms, batch_norm='separate', schedule='single_graph')
    model.afan.controls.strength_scale = strength
    expected = losses_of(model)
    monkeypatch.setattr(schedules, 'is_distributed', lambda: is_distributed)
    for number in range(2):  # the second step is known
        model.zero_grad()
        losses = losses_of(model)
        assert losses.keys() == expected.keys()
        assert float(losses['accuracy']) == float(expected['accuracy'])
        model.parse_losses(losses)[0].backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if '.auxiliary.' in name}
        assert len(gradients) == 4
        for name, gradient in gradients.items():
            takes_part = strength > 0 and name.startswith('late')
            assert (gradient is not None) is (is_distributed or takes_part), name
            assert gradient is None or bool(gradient.any()) is takes_part
        assert not any(p.grad is None for name, p in model.named_parameters() if '.auxiliary.' not in name)


def test_frozen_auxiliary_norms_stay_out(monkeypatch):
    model = net(Norms, batch_norm='separate', schedule='single_graph')
    model.requires_grad_(False)
    model.stem.requires_grad_(True)
    model.afan.controls.strength_scale = 0.0
    monkeypatch.setattr(schedules, 'is_distributed', lambda: True)
    model.parse_losses(losses_of(model))[0].backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {'stem.weight', 'stem.bias'}


def test_losses_that_are_lists_are_left_alone(monkeypatch):

    class Lists(Norms):

        def losses(self, inputs, data_samples):
            return {name: [value] for name, value in super().losses(inputs, data_samples).items()}

    monkeypatch.setattr(schedules, 'is_distributed', lambda: True)
    model = net(Lists, batch_norm='separate', schedule='single_graph')
    model.afan.controls.strength_scale = 0.0
    losses, expected = losses_of(model), losses_of(build(Lists))
    assert {name: float(value[0].detach()) for name, value in losses.items()} == {
        name: float(value[0].detach()) for name, value in expected.items()}


# ---------------------------------------------------------------- compilation
def test_a_compiled_step_is_refused():
    model = net()
    check_not_compiled(model)
    model.train_step = SimpleNamespace()
    check_not_compiled(model)
    model.train_step = SimpleNamespace(_torchdynamo_orig_callable=None)
    with pytest.raises(ValueError, match='^compile must be False with A-FAN, got True: a compiled step fails where a '):
        check_not_compiled(model)
    with pytest.raises(ValueError, match=r"^compile must be False with A-FAN, got \{'mode': 1\}: "):
        refuse_compile(dict(mode=1))
