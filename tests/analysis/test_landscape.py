"""Loss landscapes: filter norms, a loss whose values are known everywhere, and weights that come back bit for bit."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mmafan.analysis.landscape import draw_direction, measure_landscape, moved_weights, normalize_filters, ring_means


@pytest.fixture
def net():
    """Layers whose weights have very different scales."""
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4))
    with torch.no_grad():
        net[0].weight[1] *= 100
        net[0].weight[2] = 0
    return net.eval()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def state_of(net):
    return {k: v.clone() for k, v in net.state_dict().items()}


def test_every_filter_has_the_norm_of_the_weights(net):
    direction = draw_direction(net, generator())
    assert set(direction) == {'0.weight', '3.weight'}  # neither biases nor the norm's parameters
    for name, d in direction.items():
        weight = net.state_dict()[name].numpy()
        lengths = [np.linalg.norm(w) for w in weight]
        np.testing.assert_allclose([np.linalg.norm(f) for f in d.numpy()], lengths, rtol=1e-5)
    assert direction['0.weight'][2].abs().max() == 0


def test_a_filter_keeps_its_direction():
    d, w = torch.randn(3, 2, 2), torch.randn(3, 2, 2)
    cosine = torch.cosine_similarity(normalize_filters(d, w).flatten(1), d.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(3))


def test_draws_are_gaussian_and_the_same_for_every_model_of_a_shape(net):
    first = draw_direction(net, generator(3))
    with torch.no_grad():
        net[3].weight *= 7
    second = draw_direction(net, generator(3))
    torch.testing.assert_close(second['3.weight'], 7 * first['3.weight'])
    torch.testing.assert_close(second['0.weight'], first['0.weight'])
    wide = draw_direction(nn.Linear(10000, 1), generator())['weight']
    share = float((wide.abs() < wide.std()).float().mean())
    assert share == pytest.approx(0.6827, abs=0.02)  # of a Gaussian within one deviation; 4 deviations of 1e4 draws


@pytest.mark.parametrize('shapes', [((2, 3), (2, 4)), ((3, ), (3, ))])
def test_wrong_shapes_are_named(shapes):
    with pytest.raises(ValueError, match='one shape of at least two dimensions'):
        normalize_filters(*map(torch.ones, shapes))


def test_known_loss_everywhere(net):
    """For the sum of all squared weights the landscape is a sum over the parameters, by NumPy."""
    directions = draw_direction(net, generator(1)), draw_direction(net, generator(2))
    coordinates = [-1.0, 0.0, 0.5]
    before = state_of(net)
    values = measure_landscape(net, lambda: sum(float(p.detach().double().square().sum()) for p in net.parameters()),
                               directions, coordinates)
    weights = {name: p.detach().numpy().astype(np.float64) for name, p in net.named_parameters()}
    for i, a in enumerate(coordinates):
        for j, b in enumerate(coordinates):
            expected = sum(((w + sum(c * d[n].numpy() for c, d in zip((a, b), directions) if n in d))**2).sum()
                           for n, w in weights.items())
            assert values[i, j] == pytest.approx(expected, rel=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_the_centre_is_the_loss_itself_bit_for_bit(net):
    x = torch.randn(5, 2, 4, 4)

    def loss():
        with torch.no_grad():
            return float(net(x).square().mean())

    own, before = loss(), state_of(net)
    directions = draw_direction(net, generator(1)), draw_direction(net, generator(2))
    values = measure_landscape(net, loss, directions, (-0.3, 0.0, 0.3))
    assert values[1, 1] == own and len(set(values.ravel())) == 9
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())  # running statistics, too
    assert loss() == own


def test_weights_come_back_when_the_loss_raises(net):
    before = state_of(net)
    direction = draw_direction(net, generator())
    with pytest.raises(ZeroDivisionError):
        measure_landscape(net, lambda: 1 / 0, (direction, direction), (-1.0, 0.0, 1.0))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_moves_start_from_the_weights_not_from_the_last_place(net):
    direction = draw_direction(net, generator())
    with moved_weights(net, [direction]) as move:
        move([0.5])
        once = state_of(net)
        for length in (-3.0, 0.1, 0.5):
            move([length])
        assert all(torch.equal(v, once[k]) for k, v in net.state_dict().items())


def test_rings():
    coordinates = (-0.2, -0.1, 0.0, 0.1, 0.2)
    values = np.fromfunction(lambda i, j: np.maximum(abs(i - 2), abs(j - 2)) * 10 + (j == 2) * 8, (5, 5))
    # Of the 8 points of the first ring 2 lie in column 2, of the 16 of the second 2.
    assert ring_means(values, coordinates) == {0.0: 8.0, 0.1: 12.0, 0.2: 21.0}
