"""What modules return, and which of them are looked at."""
from __future__ import annotations

import pytest
import torch
from torch import nn

from mmafan.analysis.layers import LayerOutputs, choose_layers


@pytest.mark.parametrize('with_grad', [False, True])
def test_what_is_kept_is_what_the_module_returned(with_grad):
    """Operations in place that follow change neither the copy nor the tensor of the graph."""
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 1))
    x = torch.randn(5, 3)
    outputs = LayerOutputs(net, ['0'], with_grad)
    with outputs:
        result = net(x)
    [kept] = outputs.take()['0']
    torch.testing.assert_close(kept, x @ net[0].weight.T + net[0].bias)
    assert (kept < 0).any() and kept.requires_grad == with_grad and outputs.take() == {}
    if with_grad:
        [gradient] = torch.autograd.grad(result.sum(), kept)
        torch.testing.assert_close(gradient, (kept > 0) * net[2].weight)


def test_parts_of_what_is_not_called_itself_are_chosen():
    net = nn.Module()
    net.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    net.head = nn.Module()
    net.head.fc, net.head.drop = nn.Linear(4, 2), nn.Dropout()
    net.eval()

    def run():
        net.head.drop(net.head.fc(net.backbone(torch.randn(2, 3, 5, 5)).mean((2, 3))))

    assert choose_layers(net, run).default == ['backbone.0', 'head.fc']
    assert choose_layers(net, run, 'backbone.0').default == ['head.fc']
    assert choose_layers(net, run, 'head.fc', 'input').default == ['head.fc']
    assert choose_layers(net, run, 'backbone.1').after == ['backbone.2', 'backbone', 'head.fc', 'head.drop']
