"""The proof of a step: it holds where A-FAN is right, and names what disagrees where it is not."""
from __future__ import annotations

import copy
import itertools

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn

from mmafan.analysis import proof as proof_module
from mmafan.analysis import prove
from mmafan.analysis.proof import stock_copy
from mmafan.analysis.reference import reference_step
from mmafan.models import afan_model
from mmafan.models import losses as losses_module
from mmafan.replay import replay
from mmafan.tap_config import TapConfig


class Net(BaseModel):
    """Two losses, of which one comes before ``mid``; a layer on both sides of it; dropout before and after."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn, self.drop = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Dropout(0.3)
        self.shared = nn.Conv2d(6, 6, 1)
        self.mid, self.early, self.head = nn.Conv2d(6, 6, 3), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = self.shared(self.drop(self.bn(self.stem(inputs)).relu()))
        early = self.early(x.mean((2, 3)))
        x = self.head(self.drop(self.shared(self.mid(x)).relu()).mean((2, 3)))
        if mode != 'loss':
            return x
        return dict(loss_early=nn.functional.cross_entropy(early, data_samples),
                    loss=nn.functional.cross_entropy(x, data_samples))


def build(module='mid', **fields):
    return afan_model(Net)(afan=dict(taps=dict(t=dict(module=module, step_size=0.5, **fields)), clean_weight=0.3))


def batch():
    return dict(inputs=torch.randn(4, 3, 8, 8), data_samples=torch.tensor([0, 1, 2, 1]))


def test_gradients_of_the_reference_by_hand():
    """The factors 1.0 and 2.0, a loss that passes the tap by, and a layer on both sides of it."""
    model, data = Net().eval(), batch()
    found = reference_step(model, data, dict(t=TapConfig('mid', 0.0)))
    losses = model(**data, mode='loss')
    late = dict(zip(dict(model.named_parameters()), torch.autograd.grad(losses['loss'], list(model.parameters()),
                                                                        allow_unused=True, retain_graph=True)))
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found.clean[name], parameter.grad)
    own = found.adversarial['t']
    for name in ('head.weight', 'head.bias'):
        torch.testing.assert_close(own[name], late[name])
    for name in ('stem.weight', 'bn.weight', 'mid.weight', 'early.weight'):
        assert name not in own or not own[name].any()
    assert own['shared.weight'].any() and not torch.allclose(own['shared.weight'], late['shared.weight'])
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize('module, fields, counts', [
    ('mid', {}, (8, 2, 2)), ('mid', dict(at='input'), (6, 4, 2)), ('inputs', {}, (0, 12, 0)), ('bn', {}, (4, 8, 0)),
    ('bn', dict(losses=('loss_early', )), (8, 2, 2)),
    ('mid', dict(strengths=(0.5, 1.0), reinject=True, fraction=0.5, num_steps=3, radius=1.0), (8, 2, 2))])
def test_a_right_step_is_proven(module, fields, counts):
    model, data = build(module, **fields), batch()
    before, kept = copy.deepcopy(model.state_dict()), data['inputs'].clone()
    proof = prove(model, data)
    assert proof.holds, proof.wrong
    assert (proof.before, proof.after, proof.between) == counts and proof.error < 1e-5
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(data['inputs'], kept) and model.afan.facts is None


def test_several_taps_add_up():
    model = afan_model(Net)(afan=dict(taps=dict(a=dict(module='bn', step_size=0.1), b=dict(module='mid', step_size=0.1),
                                                off=dict(module='head', step_size=0.1, weight=0.0))))
    proof = prove(model, batch())
    assert proof.holds and (proof.before, proof.after, proof.between) == (4 + 8, 8 + 2, 2)


def spoil(monkeypatch, clean=1.0, adversarial=1.0):
    original = losses_module.weight_losses
    monkeypatch.setattr('mmafan.models.step.weight_losses', lambda losses, weight, prefix='': original(
        losses, weight * (adversarial if prefix else clean), prefix))


def spoil_weight(monkeypatch):
    spoil(monkeypatch, adversarial=1.01)


def spoil_streams(monkeypatch):
    original = replay.Replay._leave
    monkeypatch.setattr(replay.Replay, '_leave', lambda self: (original(self), torch.rand(1)))


def spoil_clean_loss(monkeypatch):
    spoil(monkeypatch, clean=1.0000002)


@pytest.mark.parametrize('harm, part', [
    (spoil_weight, 'two_phase, step 1: the gradient of head.weight is 2.010 times that of the stock model, right is '
                   '2.000'),
    (spoil_streams, 'the random streams are not where the stock model leaves them'),
    (spoil_clean_loss, 'the clean loss is'),
])
def test_what_is_wrong_is_named(harm, part, monkeypatch):
    model = build()
    harm(monkeypatch)
    proof = prove(model, batch())
    assert not proof.holds and any(part in sentence for sentence in proof.wrong), proof.wrong


class Twice(Net):
    """A model whose loss its own copy changes: the stock step has another buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer('seen', torch.zeros(1))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode == 'loss' and hasattr(self, 'afan'):
            self.seen += 1
        return super().forward(inputs, data_samples, mode)


class Noisy(Net):
    """Its losses differ from run to run, as where the threads of a GPU add in any order."""
    far = 3e-6

    def forward(self, inputs, data_samples=None, mode='tensor'):
        found = super().forward(inputs, data_samples, mode)
        noise = 1 + self.far * next(NUMBERS) * (self.far < 1e-3 or not hasattr(self, 'afan'))
        return {name: value * noise for name, value in found.items()} if mode == 'loss' else found


NUMBERS = itertools.cycle([0.7, -0.4, 0.1, -0.9, 0.5])


@pytest.mark.parametrize('far, device, part', [
    (3e-6, 'cuda', None), (0.0, 'cuda', None), (3e-6, 'cpu', 'the clean loss is'),
    (3e-2, 'cuda', 'in a loss, which proves nothing')])
def test_on_a_gpu_a_step_is_as_right_as_the_stock_model_repeats_itself(far, device, part, monkeypatch):
    monkeypatch.setattr(Noisy, 'far', far)
    monkeypatch.setattr(proof_module, 'device_of', lambda _: torch.device(device))
    proof = prove(afan_model(Noisy)(afan=dict(taps=dict(t=dict(module='mid', step_size=0.1)))), batch())
    assert proof.holds == (part is None), proof.wrong
    assert part is None or any(part in sentence for sentence in proof.wrong), proof.wrong
    if part is None:
        assert (proof.spread['loss'] > 0) == (far > 0) and set(proof.spread) == {'loss', 'buffer', 'gradient'}


def test_where_the_stock_model_repeats_itself_the_last_digit_counts_on_a_gpu_too(monkeypatch):
    spoil_clean_loss(monkeypatch)
    monkeypatch.setattr(proof_module, 'device_of', lambda _: torch.device('cuda'))
    assert any('the clean loss is' in sentence for sentence in prove(build(), batch()).wrong)


def test_a_changed_buffer_is_named():
    model = afan_model(Twice)(afan=dict(taps=dict(t=dict(module='mid', step_size=0.1))))
    assert 'two_phase, step 1: the buffer seen is not what the step of the stock model leaves' in prove(
        model, batch()).wrong


def test_the_stock_copy_has_nothing_of_afan():
    model = afan_model(Net)(afan=dict(taps=dict(t=dict(module='mid', step_size=0.5)), batch_norm='separate'))
    stock = stock_copy(model)
    assert type(stock) is Net and type(stock.bn) is nn.BatchNorm2d and not hasattr(stock, 'afan')
    assert list(stock.state_dict()) == list(Net().state_dict()) and len(list(stock.parameters())) == 12


def test_wrong_arguments():
    with pytest.raises(TypeError, match='model must be an A-FAN model, such as mmafan.AFANImageClassifier, got Net'):
        prove(Net(), batch())
    with pytest.raises(ValueError, match='weight above 0'):
        prove(build(weight=0.0), batch())
    with pytest.raises(ValueError, match='afan.taps.t.module must name a module that the losses depend on'):
        model = build('stem')
        model.stem.requires_grad_(False)
        prove(model, batch())


class Reseeded(Net):
    """A stock model that draws from streams which begin at random: they are nowhere in particular after a step."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        found = super().forward(inputs, data_samples, mode)
        torch.seed()
        return found


def test_random_streams_that_the_stock_model_does_not_repeat_prove_nothing():
    proof = prove(afan_model(Reseeded)(afan=dict(taps=dict(t=dict(module='mid', step_size=0.1)))), batch())
    assert proof.holds, proof.wrong


class AddsGradients(torch.autograd.Function):
    """A product whose backward adds to the gradient of its weight itself, as reversible layers do."""

    @staticmethod
    def forward(ctx, x, owner):
        ctx.save_for_backward(x)
        ctx.owner = owner
        return x * owner.factor

    @staticmethod
    def backward(ctx, gradient):
        own, factor = (ctx.saved_tensors[0] * gradient).sum(), ctx.owner.factor
        factor.grad = own if factor.grad is None else factor.grad + own
        return gradient * factor.detach(), None


class Reversible(Net):

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return super().forward(AddsGradients.apply(inputs.requires_grad_(), self), data_samples, mode)


def test_gradients_that_a_backward_adds_itself_are_seen():
    model = Reversible().eval()
    with torch.no_grad():
        model.factor.grad = torch.tensor(7.0)
    found = reference_step(model, batch(), dict(t=TapConfig('mid', 0.0)))
    assert found.clean['factor'] and not found.adversarial['t']['factor'] and float(model.factor.grad) == 7.0


class Weighted(Net):
    """A model that sums up its losses by their place, and names them as A-FAN would."""

    def __init__(self):
        super().__init__()
        self.log_var = nn.Parameter(torch.zeros(2))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        found = super().forward(inputs, data_samples, mode)
        return {'adv_loss': found['loss_early'], 'adv_t_0.loss': found['loss']}

    def parse_losses(self, losses):
        total = sum((-weight).exp() * value + weight
                    for weight, (_, value) in zip(self.log_var, sorted(losses.items()), strict=True))
        return total, dict(losses, loss=total)


def test_models_with_sums_and_names_of_their_own_are_proven():
    proof = prove(afan_model(Weighted)(afan=dict(taps=dict(t=dict(module='bn', step_size=0.1)))), batch())
    assert proof.holds, proof.wrong


class Shortcut(Net):
    """The part before ``mid`` runs again for a shortcut around it."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = self.mid(self.stem(inputs)) + self.stem(inputs)[..., 1:-1, 1:-1]
        return dict(loss=nn.functional.cross_entropy(self.head(x.mean((2, 3))), data_samples))


def test_what_runs_again_beside_a_tap_is_before_it():
    proof = prove(afan_model(Shortcut)(afan=dict(taps=dict(t=dict(module='mid', step_size=0.1)))), batch())
    assert proof.holds, proof.wrong
    assert (proof.before, proof.after, proof.between) == (4, 2, 0)
