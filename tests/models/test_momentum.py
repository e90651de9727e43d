"""Models that their own forward changes: momentum networks and queues are as after a step of the stock model."""
from __future__ import annotations

import pytest
import torch
from mmengine.model import BaseModel, ExponentialMovingAverage
from mmengine.optim import OptimWrapper
from torch import nn

from mmafan.analysis import prove
from mmafan.analysis.proof import stock_copy
from mmafan.models import afan_model


class Contrast(BaseModel):
    """A small MoCo: an encoder, one that follows it, a queue of keys that belongs to the model itself."""

    def __init__(self, follows):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False))
        encoder = nn.Sequential(self.stem, self.late)
        if follows == 'averaged':
            self.keys = ExponentialMovingAverage(encoder, 0.1)
        else:
            self.keys = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)).requires_grad_(False)
        self.follows, self.calls = follows, 0
        self.keys.requires_grad_(follows == 'by hand, with gradients')  # as some set it in init_weights alone
        self.register_buffer('queue', torch.randn(4, 8))

    def _follow(self):
        if self.follows == 'averaged':
            return self.keys.update_parameters(nn.Sequential(self.stem, self.late))
        for keys, own in zip((self.keys[0], self.keys[1]), (self.stem[0], self.late[0])):
            for name, parameter in keys.named_parameters():
                parameter.data = .9 * parameter.data + .1 * own.get_parameter(name).data

    def forward(self, inputs, data_samples=None, mode='tensor'):
        self.calls += 1
        queries = self.late(self.stem(inputs)).mean((2, 3))
        with torch.no_grad():
            self._follow()
            keys = self.keys(inputs).mean((2, 3))
        logits = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ self.queue.clone()], 1)
        self.queue[:, :len(keys)] = keys.T * self.calls
        return dict(loss=nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long)))


@pytest.mark.parametrize('follows', ['averaged', 'by hand', 'by hand, with gradients'])
@pytest.mark.parametrize('module', ['stem', 'late.0'])
def test_what_a_forward_changes_is_as_after_a_stock_step(follows, module):
    torch.manual_seed(1)
    model = afan_model(Contrast)(follows, afan=dict(taps=dict(t=dict(module=module, step_size=0.1))))
    proof = prove(model, dict(inputs=torch.randn(4, 3, 8, 8), data_samples=None))
    assert proof.holds, proof.wrong
    assert proof.before and proof.after


@pytest.mark.parametrize('follows', ['averaged', 'by hand'])
def test_a_network_that_begins_equal_is_known_in_later_steps(follows):
    """In the first step it is copied, or stays what it is: its values say nothing."""
    torch.manual_seed(1)
    afan = afan_model(Contrast)(follows, afan=dict(taps=dict(t=dict(module='stem', step_size=0.0, weight=1e-9))))
    if follows == 'by hand':
        afan.keys[0].load_state_dict(afan.stem[0].state_dict())
        afan.keys[1].load_state_dict(afan.late[0].state_dict())
    stock = stock_copy(afan)
    for number in range(3):
        data = dict(inputs=torch.randn(4, 3, 8, 8), data_samples=None)
        for model in (stock, afan):
            model.train_step(data, OptimWrapper(torch.optim.SGD([*model.stem.parameters()], lr=0.1)))
    for (name, left), right in zip(stock.keys.state_dict().items(), afan.keys.state_dict().values()):
        torch.testing.assert_close(right, left, rtol=1e-5, atol=1e-6, msg=name)
    torch.testing.assert_close(afan.queue, stock.queue)


class Normalizing(BaseModel):
    """A model that writes to a weight before it is used, past the graph, as SwAV does with its prototypes."""

    def __init__(self):
        super().__init__()
        self.stem, self.prototypes = nn.Conv2d(3, 4, 3), nn.Linear(4, 5, bias=False)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        features = self.stem(inputs).mean((2, 3))
        with torch.no_grad():
            self.prototypes.weight.copy_(nn.functional.normalize(self.prototypes.weight + 0.1))
        return dict(loss=self.prototypes(features).square().mean())


def test_a_weight_that_the_forward_writes_to():
    model = afan_model(Normalizing)(afan=dict(taps=dict(t=dict(module='stem', step_size=0.1, strengths=(0.5, 1.0)))))
    proof = prove(model, dict(inputs=torch.randn(4, 3, 8, 8), data_samples=None))
    assert proof.holds, proof.wrong
    for schedule in ('two_phase', 'single_graph'):  # every pass of several
        model = afan_model(Normalizing)(afan=dict(schedule=schedule, taps=dict(
            t=dict(module='stem', step_size=0.1, strengths=(0.5, 1.0), num_steps=2, radius=0.2))))
        model.train_step(dict(inputs=torch.randn(4, 3, 8, 8), data_samples=None),
                         OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
