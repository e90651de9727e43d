"""What a forward changes beside its outputs is found wherever it is, lent to a pass and put back."""
from __future__ import annotations

import copy
from collections import deque

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from torch import nn

from mmafan.replay.forward_state import changed_places, forward_state, read_state


class Part(nn.Module):
    """State of every kind, and attributes that are none."""

    def __init__(self):
        super().__init__()
        self.count, self.rate, self.mode, self.nothing, self.flag = 0, 0.5, 'a', None, False
        self.history, self.queue, self.names = [1], deque([2.0], maxlen=3), ['a', None, True]
        self.mixed, self.table, self.tensor = [1, torch.ones(1)], dict(a=1), torch.ones(1)
        self.register_buffer('seen', torch.zeros(2))
        self.register_buffer('missing', None)
        self.register_parameter('weight', nn.Parameter(torch.ones(2)))
        self.register_parameter('bias', None)


PLAIN = {'count', 'rate', 'mode', 'nothing', 'flag', 'history', 'queue', 'names', 'training'}


def read(text):
    """Make a text anew, as one that is read from a file: equal to others, and no other."""
    return ''.join(list(text))


def model():
    made = nn.Sequential(Part(), nn.BatchNorm1d(2))
    made.calls = 0
    return made


def test_plain_attributes_and_buffers_are_state_and_norms_keep_theirs():
    net = model()
    state = read_state(net)
    expected = {('0', name, 'attribute') for name in PLAIN} | {('0', 'seen', 'buffer')}
    expected |= {('', 'calls', 'attribute'), ('', 'training', 'attribute')}
    assert {place for place in state if not place[1].startswith('_')} == expected
    assert not any(place[0] == '1' for place in state)
    part, history, seen = net[0], state['0', 'history', 'attribute'], state['0', 'seen', 'buffer']
    assert history.value == [1] and history.value is not part.history and history.version == 0
    assert torch.equal(seen.value, part.seen) and seen.value.data_ptr() != part.seen.data_ptr()
    assert seen.original is part.seen and seen.version == part.seen._version
    assert read_state(net, [('0', 'rate', 'attribute')])['0', 'rate', 'attribute'].value == 0.5
    assert len(read_state(net, [('0', 'rate', 'attribute')])) == 1 and read_state(net, []) == {}


def test_with_momentum_parameters_are_state_too_and_norms_without_a_gradient():
    net = nn.Sequential(Part(), nn.BatchNorm1d(2), nn.BatchNorm1d(2).requires_grad_(False))
    net.slow = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2, affine=False))).requires_grad_(False)
    net.fast = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2, affine=False)))
    statistics = ('running_mean', 'running_var', 'num_batches_tracked')
    state = read_state(net, momentum=True)
    values = {place[:2] for place in state if place[2] == 'values'}
    assert all((saved.original is None) == (place[2] != 'buffer') for place, saved in state.items())
    expected = {('0', 'weight'), *((path, name) for path in ('2', 'slow.1.0') for name in statistics)}
    assert values == expected | {(path, name) for path in ('1', '2', 'slow.0', 'fast.0') for name in ('weight', 'bias')}
    alone = nn.BatchNorm1d(2, affine=False)  # nothing in the whole model has a gradient
    assert {place[1] for place in read_state(alone, momentum=True)} == set(statistics)


def test_copies_of_buffers_that_are_still_the_same_serve_again():
    net = model()
    for _ in range(300):
        net[0].seen.add_(0)
    known = read_state(net)
    place, attribute = ('0', 'seen', 'buffer'), ('0', 'history', 'attribute')
    again = read_state(net, known=known)
    assert again[place] is known[place] and again[attribute] is not known[attribute]
    assert changed_places(net, known) == []
    for version in (299, 301):
        other = {place: known[place]._replace(version=version)}
        assert read_state(net, known=other)[place].version == 300 and changed_places(net, other) == [place]
    net[0].seen.add_(1)
    written = read_state(net, known=again)
    assert written[place].value.tolist() == [1, 1] and written[place].version == net[0].seen._version
    net[0].seen = torch.zeros(2)
    net[0].seen.add_(3)  # another buffer, of the same version
    replaced = read_state(net, known=written)
    assert replaced[place].value.tolist() == [3, 3] and replaced[place].original is net[0].seen


CHANGES = dict(
    number=('count', 'attribute', lambda part: setattr(part, 'count', 1)),
    value=('nothing', 'attribute', lambda part: setattr(part, 'nothing', 1)),
    text=('mode', 'attribute', lambda part: setattr(part, 'mode', 'b')),
    appended=('history', 'attribute', lambda part: part.history.append(2)),
    queue=('queue', 'attribute', lambda part: part.queue.append(2)),
    removed=(None, 'attribute', lambda part: delattr(part, 'rate')),
    unchanged=(None, 'attribute', lambda part: setattr(part, 'count', 0)),
    not_noted=(None, 'attribute', lambda part: setattr(part, 'new', 0)),
    equal=(None, 'attribute', lambda part: setattr(part, 'history', [1])),
    in_place=('seen', 'buffer', lambda part: part.seen.add_(0)),
    past_the_counter=('seen', 'buffer', lambda part: part.seen.data.add_(1)),
    other=('seen', 'buffer', lambda part: setattr(part, 'seen', torch.zeros(2))),
    gone=('seen', 'buffer', lambda part: setattr(part, 'seen', None)),
    parameter=('weight', 'values', lambda part: part.weight.data.add_(1)),
    parameter_replaced=('weight', 'values', lambda part: setattr(part.weight, 'data', torch.zeros(2))),
    parameter_written=(None, 'values', lambda part: part.weight.data.mul_(1)),
    shard=(None, 'values', lambda part: setattr(part.weight, 'data', torch.zeros(1))),
    gathered=(None, 'values', lambda part: setattr(part.weight, 'data', torch.zeros(3))))


@pytest.mark.parametrize('kind', CHANGES)
def test_what_differs_is_listed(kind):
    net = model()
    before = {tuple(map(read, place)): saved for place, saved in read_state(net, momentum=True).items()}
    assert changed_places(net, before) == []
    name, where, change = CHANGES[kind]
    change(net[0])
    assert changed_places(net, before) == ([] if name is None else [('0', name, where)])


def test_a_buffer_that_is_none_again_is_no_change_of_its_values():
    net = model()
    before = read_state(net)
    net[0].seen = None
    assert changed_places(net, before) == [('0', 'seen', 'buffer')]
    later = read_state(net, known=before)
    assert ('0', 'seen', 'buffer') not in later and changed_places(net, later) == []


def test_all_of_a_momentum_network_changes_with_its_number_of_steps():
    """Its first step copies the values of the network it follows, which may be the same."""
    net = nn.Module()
    net.own = nn.Linear(2, 2)
    net.slow, net.slower = (ExponentialMovingAverage(net.own, momentum=0.5) for _ in range(2))
    net.slow_not = nn.Linear(2, 2)
    before = read_state(net, momentum=True)
    assert changed_places(net, before) == []
    net.slow.update_parameters(net.own)
    assert set(changed_places(net, before)) == {
        ('slow', 'steps', 'buffer'), ('slow.module', 'weight', 'values'), ('slow.module', 'bias', 'values')}
    places = [place for place in before if place[2] == 'values']
    assert changed_places(net, read_state(net, places)) == []  # nothing is known of its steps


def test_a_pass_is_lent_the_state_and_everything_is_put_back():
    net = model()
    part = net[0]
    places = [('0', 'history', 'attribute'), ('0', 'seen', 'buffer'), ('0', 'weight', 'values'),
              ('0', 'count', 'attribute')]
    places = [tuple(map(read, place)) for place in places]
    start = read_state(net, places)
    part.history.append(5)
    part.seen.add_(5)
    part.weight.data.add_(5)
    with torch.no_grad():
        part.weight.add_(1)
    part.count = 5
    stock = {name: getattr(part, name) for name in ('history', 'seen', 'weight')}
    version, kept = part.weight._version, copy.deepcopy(start)
    for _ in range(2):
        with forward_state(net, start):
            assert (part.history, part.count, part.seen.tolist(), part.weight.tolist()) == ([1], 0, [0, 0], [1, 1])
            assert part.weight is stock['weight'] and part.weight._version == start[places[2]].version != version
            part.history.append(7)
            for tensor in (part.seen, part.weight.data):
                tensor.add_(7)
            part.count = 7
        assert (part.history, part.count, part.seen.tolist(), part.weight.tolist()) == ([1, 5], 5, [5, 5], [7, 7])
        assert all(getattr(part, name) is value for name, value in stock.items()) and part.weight._version == version
        assert [*part._buffers] == ['seen', 'missing'] and 'seen' not in vars(part)
    assert all(torch.equal(torch.as_tensor(start[place].value), torch.as_tensor(kept[place].value)) for place in places)


def test_after_a_pass_that_fails_everything_is_put_back():
    net = model()
    start = read_state(net, [('0', 'seen', 'buffer'), ('0', 'weight', 'values')])
    seen, data = net[0].seen, net[0].weight.data_ptr()
    with pytest.raises(KeyError), forward_state(net, start):
        assert net[0].seen is not seen and net[0].weight.data_ptr() != data
        raise KeyError
    assert net[0].seen is seen and net[0].weight.data_ptr() == data


@pytest.mark.parametrize('takes_many', [True, False])
def test_versions_are_set_however_torch_takes_them(takes_many, monkeypatch):
    """Since torch 2.7 it takes several tensors at once."""
    net, taken = model(), []
    place = ('0', 'weight', 'values')

    def set_version(tensors, versions):
        if isinstance(tensors, tuple) != takes_many:
            raise TypeError
        taken.append((*tensors, *versions) if takes_many else (tensors, versions))

    monkeypatch.setattr(torch._C._autograd, '_unsafe_set_version_counter', set_version)
    with forward_state(net, {place: read_state(net, [place])[place]._replace(version=5)}):
        assert len(taken) == 1
    assert [version for _, version in taken] == [5, 0] and all(tensor is net[0].weight for tensor, _ in taken)
