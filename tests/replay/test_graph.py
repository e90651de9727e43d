"""What depends on what is read off the graph as autograd has it."""
from __future__ import annotations

import itertools

import pytest
import torch

from mmafan.replay.graph import behind, leaves_among, leaves_before, leaves_until, node_of, nodes_behind


class Leaves(dict):
    """Parameters by name, and data."""

    def __init__(self):
        super().__init__({name: torch.full((2, 2), 2.0 + number, requires_grad=True) for number, name in
                          enumerate('abcd')})
        self.data = torch.ones(3, 2, 2)  # of three samples

    def names(self, found):
        return {name for name, leaf in self.items() if id(leaf) in found}


def values(leaves):
    return [leaves[name] for name in 'abcd'] + [leaves.data]


def chain(leaves):
    a, b, c, _, x = values(leaves)
    feature = (a * x * b).clone()
    return [feature], [feature * c]


def tied(leaves):
    a, b, _, _, x = values(leaves)
    feature = (a * x).clone()
    return [feature], [feature * a * b]


def side_before(leaves):
    a, b, c, _, x = values(leaves)
    side = a * x
    feature = (b * x).clone()
    return [feature], [feature * c + side]


def side_after(leaves):
    """Its side branch is computed after the feature, from data alone: no pass of the feature comes to it."""
    a, b, c, _, x = values(leaves)
    feature = (b * x).clone()
    side = a * x * 2
    return [feature], [feature * c + side]


def again_on_data(leaves):
    a, b, _, _, x = values(leaves)
    feature = (a * x).clone()
    return [feature], [feature * b, a * x]


def again_in_a_sum(leaves):
    """What comes from data in a step or two is computed beside the feature, where or when it is added."""
    a, b, c, d, x = values(leaves)
    feature = (a * x * d).clone()
    return [feature], [feature * b + (c * x * a * d).exp()]


def view_after(leaves):
    """A view of a weight that is taken after the feature is of the suffix, through however many nodes."""
    a, _, _, _, x = values(leaves)
    feature = (a * x).clone()
    return [feature], [feature * a.t().exp().reshape(2, 2)]


def view_before(leaves):
    """One that is taken before belongs to what has finished."""
    a, b, _, _, x = values(leaves)
    weight = b.t().exp()
    feature = (a * x).clone()
    return [feature], [feature * weight]


def of_weights_alone(leaves):
    a, b, _, _, _ = values(leaves)
    feature = (a * 2).clone()
    return [feature], [feature * b]


def parameter(leaves):
    """The feature is a parameter itself, such as learned queries, which nothing before it uses."""
    a, b, _, _, _ = values(leaves)
    feature = a.view_as(a)
    return [feature], [feature * b]


def frozen_later(leaves):
    """What a frozen feature is multiplied with is of the suffix, even where data is in it."""
    a, b, c, _, x = values(leaves)
    feature = (a * x).clone()
    return [feature], [feature * (b * x) + c]


def twice(leaves):
    """What a later feature comes from is of the suffix where the first one leads to it."""
    a, b, c, d, x = values(leaves)
    first = (a * x).clone()
    second = (first * b * (c * x)).clone()
    return [first, second], [second * d]


def beside(leaves):
    """Two features of one module; what is computed between them is not used before both."""
    a, b, c, d, x = values(leaves)
    first = (a * x).clone()
    side = c * x
    second = (b * x).clone()
    return [first, second], [first * d + side, second]


def several_losses(leaves):
    a, b, c, d, x = values(leaves)
    feature = (a * x).clone()
    return [feature], [feature * b, (c * x).sum(), feature * b * d]


@pytest.mark.parametrize('make, before, until', [
    (chain, 'ab', 'ab'), (tied, '', 'a'), (side_before, 'ab', 'ab'), (side_after, 'b', 'b'), (again_on_data, 'a', 'a'),
    (again_in_a_sum, 'ad', 'ad'), (view_after, '', 'a'), (view_before, 'ab', 'ab'), (of_weights_alone, 'a', 'a'),
    (parameter, 'a', ''), (frozen_later, 'a', 'a'), (twice, 'ac', 'a'), (beside, 'ab', 'a'),
    (several_losses, 'a', 'a')])
def test_what_is_used_before_a_feature_alone_and_what_until_it(make, before, until):
    leaves = Leaves()
    features, losses = make(leaves)
    nodes = nodes_behind(losses)
    assert leaves.names(leaves_before(map(node_of, features), nodes)) == set(before)
    assert leaves.names(leaves_until(node_of(features[0]), nodes)) == set(until)


@pytest.mark.parametrize('make', [chain, tied, side_after, view_after, twice, several_losses])
def test_what_lies_behind_is_what_a_gradient_comes_to(make):
    leaves = Leaves()
    _, losses = make(leaves)
    for chosen in itertools.chain([losses], ([loss] for loss in losses)):
        gradients = torch.autograd.grad([loss.sum() for loss in chosen], list(leaves.values()), allow_unused=True,
                                        retain_graph=True)
        expected = {name for name, gradient in zip(leaves, gradients) if gradient is not None}
        for nodes in (nodes_behind([leaves.data, *chosen]), behind([*map(node_of, chosen), None])):
            assert leaves.names(leaves_among(nodes)) == expected


def test_a_node_is_among_those_behind_it():
    leaf = torch.ones(1, requires_grad=True)
    middle = leaf * 2
    assert node_of(middle) is middle.grad_fn and node_of(leaf).variable is leaf
    assert behind([node_of(middle)]) == {node_of(middle), node_of(leaf)} == nodes_behind([middle])
    assert nodes_behind([leaf]) == {node_of(leaf)} and nodes_behind([leaf.detach()]) == set()
    assert leaves_among([node_of(middle), node_of(leaf)]) == {id(leaf)} and leaves_among([node_of(middle)]) == set()
