"""Optimizer wrappers of a user's own see what they see of a stock model: one loss, the whole of it."""
from __future__ import annotations

import pytest
import torch
from mmengine.optim import OptimWrapper

from ..rule import Plain, batch_of, by_part, gradients, ratios, tapped


class Net(Plain):

    def losses(self, inputs, data_samples):
        return dict(loss_a=self.classify(self.mid(self.stem(inputs)), data_samples))


class SkipNonFinite(OptimWrapper):
    """Skips a loss that is not finite."""
    seen: list = []

    def update_params(self, loss, step_kwargs=None, zero_kwargs=None):
        self.seen.append(float(loss.detach()))
        if torch.isfinite(loss):
            super().update_params(loss, step_kwargs, zero_kwargs)


class Penalized(OptimWrapper):
    """Adds a penalty to what it descends."""

    def backward(self, loss, **kwargs):
        penalty = sum(p.square().sum() for group in self.param_groups for p in group['params'])
        super().backward(loss + penalty, **kwargs)


class Patched(OptimWrapper):
    """Its method is replaced on the object."""
    seen: list = []

    def __init__(self, optimizer):
        super().__init__(optimizer)
        stock = self.update_params
        self.update_params = lambda loss: (self.seen.append(float(loss.detach())), stock(loss))


@pytest.mark.parametrize('wrapper', [SkipNonFinite, Patched])
def test_a_wrapper_sees_the_whole_loss(wrapper):
    wrapper.seen = []
    model = tapped(Net, strengths=(0.5, 1.0), weight=(0.5, 0.25), afan=dict(clean_weight=0.25))
    _, log = gradients(model, batch_of(), wrapper)
    assert wrapper.seen == [pytest.approx(log['loss'])] and log['adv_t_1.loss_a'] > 0
    assert by_part(ratios(Net, tapped(Net), batch_of(), wrapper)) == dict(stem=1, mid=1, head=2)


def test_a_wrapper_that_skips_leaves_the_weights_finite():
    model, batch = tapped(Net), batch_of()
    wrapper = SkipNonFinite(torch.optim.SGD(model.parameters(), lr=0.1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train_step(dict(batch, inputs=batch['inputs'] * float('inf')), wrapper)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.train_step(batch, wrapper)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert not all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_a_wrapper_adds_in_its_backward_counts_once():
    found, expected = gradients(tapped(Net), batch_of(), Penalized)[0], gradients(tapped(Net), batch_of())[0]
    for name, parameter in tapped(Net).named_parameters():
        assert torch.allclose(found[name], expected[name] + 2 * parameter.detach())


def test_two_phases_are_refused_with_such_a_wrapper():
    model = tapped(Net, afan=dict(schedule='two_phase'))
    with pytest.raises(ValueError, match='two_phase. is not possible here .SkipNonFinite has an update_params'):
        gradients(model, batch_of(), SkipNonFinite)
