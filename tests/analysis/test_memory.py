"""Peak memory is counted to the byte."""
from __future__ import annotations

import pytest
import torch
from torch import nn

from mmafan.analysis.memory import peak_memory, peak_of, resident_bytes


def empty(size):
    return torch.empty(size, dtype=torch.uint8)


def test_known_allocations_are_counted_exactly():

    def work():
        first, second = empty(1000), empty(500)  # 1500 live
        del first
        third = empty(800)  # 1300 live
        del second, third
        return empty(200)

    assert peak_memory(work) == 1500


def test_memory_from_before_does_not_count_when_it_is_released():
    old = [empty(10_000)]

    def work():
        new = empty(300)
        old.clear()
        return new, empty(400)

    assert peak_memory(work) == 700


def test_graph_is_live_until_the_backward_frees_it():
    x = torch.zeros(1000, requires_grad=True)  # 4000 bytes

    def forwards():
        return x.exp().exp()  # both results are saved for the backward

    def in_turn():
        for _ in range(3):
            forwards().sum()

    assert peak_memory(forwards) == 8000
    assert peak_memory(in_turn) < 3 * 8000
    assert peak_memory(lambda: [forwards() for _ in range(3)]) == 3 * 8000


def test_a_view_allocates_nothing_and_an_exception_passes_through():
    x = empty(100)
    assert peak_memory(lambda: x.view(10, 10)[2:]) == 0
    with pytest.raises(KeyError, match='through'):
        peak_memory(lambda: {}['through'])
    assert peak_memory(lambda: empty(7)) == 7


def test_unknown_device_is_refused():
    with pytest.raises(ValueError, match="'cpu' or 'cuda' device, got 'meta'"):
        peak_memory(lambda: None, 'meta')


@pytest.mark.parametrize('changes, peak', [([], 0), ([-5], 0), ([3, 4, -6, 5], 7), ([-3, 5], 2)])
def test_largest_partial_sum(changes, peak):
    assert peak_of(changes) == peak


def test_resident_bytes_of_model_gradients_and_momentum():
    net = nn.Sequential(nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2))
    parameters, buffers = 4 * (6 + 4), 4 * 4 + 8  # num_batches_tracked is one int64
    assert resident_bytes(net) == parameters + buffers
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    assert resident_bytes(net, optimizer) == 3 * parameters + buffers
    tied = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)])
    tied[1].weight = tied[0].weight
    assert resident_bytes(tied) == 4 * (6 + 2 + 2)
