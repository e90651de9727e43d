"""Models that their own forward changes: momentum networks and queues are as after a step of the stock model."""
from __future__ import annotations

import pytest
import torch
from mmengine.model import BaseModel, ExponentialMovingAverage
from torch import nn

from mmafan.analysis import prove
from mmafan.models import afan_model


class Contrast(BaseModel):
    """A small MoCo: an encoder, one that follows it, a queue of keys that belongs to the model itself."""

    def __init__(self, follows):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
        encoder = nn.Sequential(self.stem, self.late)
        if follows == 'averaged':
            self.keys = ExponentialMovingAverage(encoder, 0.1)
            self.keys.steps.fill_(1)
        else:
            self.keys = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)).requires_grad_(False)
        self.follows, self.calls = follows, 0
        for parameter in self.keys.parameters():
            parameter.data += 0.1
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


@pytest.mark.parametrize('follows', ['averaged', 'by hand'])
@pytest.mark.parametrize('module', ['stem', 'late.0'])
def test_what_a_forward_changes_is_as_after_a_stock_step(follows, module):
    model = afan_model(Contrast)(follows, afan=dict(taps=dict(t=dict(module=module, step_size=0.1))))
    proof = prove(model, dict(inputs=torch.randn(4, 3, 8, 8), data_samples=None))
    assert proof.holds, proof.wrong
    assert proof.before and proof.after
