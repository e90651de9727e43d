"""Results of methods that are kept for replay: copies, selections, and methods put back."""
from __future__ import annotations

import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn

from mmafan.replay import Facts, Recording, WatchedCall
from mmafan.replay.batch import Chosen, select_elements
from mmafan.replay.forward_state import changed_places, forward_state, read_state
from mmafan.replay.state import Patches
from mmafan.replay.tree import snapshot, tensors_of


class Sampled:
    """A plain result, as mmdet's samplers return it."""

    def __init__(self):
        self.boxes, self.count, self.rest = torch.ones(2, 4, requires_grad=True) * 2, 3, [torch.zeros(1)]


def test_a_snapshot_is_not_touched_by_what_is_done_to_the_result():
    result = (dict(loss=[torch.ones((), requires_grad=True) * 2]), [InstanceData(bboxes=torch.rand(3, 4))], Sampled())
    kept = snapshot(result)
    result[0].clear()
    result[1][0].priors = result[1][0].pop('bboxes')  # as mmdet's RoI heads do
    result[2].boxes = None
    result[2].rest.append('more')
    assert kept[0]['loss'][0] == 2 and not kept[0]['loss'][0].requires_grad
    assert kept[1][0].bboxes.shape == (3, 4) and 'priors' not in kept[1][0]
    assert kept[2].boxes.shape == (2, 4) and not kept[2].boxes.requires_grad and len(kept[2].rest) == 1
    assert type(kept[2]) is Sampled and kept[2].count == 3


def test_a_snapshot_shares_the_memory_of_tensors():
    boxes = torch.rand(3, 4)
    assert snapshot([boxes])[0].data_ptr() == boxes.data_ptr()


def test_tensors_of_finds_all():
    result = (dict(a=torch.zeros(1)), [InstanceData(b=torch.ones(1))], Sampled(), 'text', None)
    assert len(tensors_of(result)) == 4


@pytest.mark.parametrize('size', [2, 3])
def test_only_lists_of_elements_of_samples_are_selected(size):
    elements = [InstanceData(number=torch.tensor([k])) for k in range(size)]
    losses = dict(loss=[torch.tensor(float(k)) for k in range(size)])  # one for each level, by chance as many
    chosen = select_elements((losses, elements), Chosen(torch.tensor([1]), size))
    assert len(chosen) == 2 and len(chosen[0]['loss']) == size and [int(e.number) for e in chosen[1]] == [1]
    assert select_elements(elements, None) is elements


def test_patches_are_undone_last_first():
    class Owner:
        def act(self):
            return 'stock'

    owner, patches = Owner(), Patches()
    patches.set(owner, 'act', lambda: 'first')
    patches.set(owner, 'act', lambda: 'second')
    assert owner.act() == 'second'
    patches.undo()
    assert owner.act() == 'stock' and 'act' not in vars(owner)
    owner.act = mine = lambda: 'mine'
    patches.set(owner, 'act', lambda: 'third')
    patches.undo()
    assert owner.act is mine


def test_a_call_is_known_by_its_object_and_name():
    first, second = object(), object()
    assert WatchedCall(first, 'a').key == WatchedCall(first, 'a', paired=True).key != WatchedCall(second, 'a').key


def test_several_elements_for_each_sample():
    """Three branches of two images, branch after branch, as TridentNet returns its proposals."""
    elements = [InstanceData(number=torch.tensor([k])) for k in range(6)]
    assert [int(e.number) for e in select_elements(elements, Chosen(torch.tensor([1]), 2))] == [1, 3, 5]


class Counting(nn.Module):
    """State of every kind that a forward may change, and some that it does not."""

    def __init__(self):
        super().__init__()
        self.calls, self.history, self.rate, self.names = 0, [1.5], 0.1, ['a']
        self.register_buffer('seen', torch.zeros(2))
        self.register_buffer('twice', torch.zeros(1))
        self.register_buffer('fixed', torch.zeros(2))
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x):
        self.calls += 1
        self.history.append(float(self.calls))
        self.seen += 1
        self.twice = self.twice + 1  # a new buffer, twice: the second may lie where the first was
        self.twice = self.twice + 1
        self.cache = len(self.history)
        return self.norm(x)


def test_what_a_forward_changes_is_found_and_protected():
    model = nn.Sequential(Counting())
    before = read_state(model)
    model(torch.rand(3, 2))
    places = changed_places(model, before)
    assert set(places) == {('0', 'calls', 'attribute'), ('0', 'history', 'attribute'), ('0', 'seen', 'buffer'),
                           ('0', 'twice', 'buffer')}
    start = read_state(model, places)
    model(torch.rand(3, 2))  # a clean pass
    counting = model[0]
    seen, history = counting.seen, counting.history
    for _ in range(2):  # adversarial passes: each begins where the clean one began
        with forward_state(model, start):
            assert counting.calls == 1 and counting.history == [1.5, 1.0] and counting.seen.tolist() == [1, 1]
            model(torch.rand(3, 2))
            assert counting.calls == 2
    assert counting.calls == 2 and counting.history is history and history == [1.5, 1.0, 2.0]
    assert counting.seen is seen and seen.tolist() == [2, 2]
    with pytest.raises(KeyError):
        with forward_state(model, start):
            raise KeyError
    assert counting.calls == 2 and counting.seen is seen


class Follower(nn.Module):
    """A momentum network: parameters without gradient that the forward changes, past the counter of versions."""

    def __init__(self, in_place):
        super().__init__()
        self.own, self.slow = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
        self.in_place, self.held = in_place, None
        self.held = dict(self.slow.named_parameters())

    def forward(self, x):
        for name, slow in self.held.items():
            new = .9 * slow.data + .1 * self.own.get_parameter(name).data
            if self.in_place:
                slow.data.copy_(new)
            else:
                slow.data = new
        return self.slow(x)


@pytest.mark.parametrize('in_place', [True, False])
def test_momentum_networks_are_found_and_protected(in_place):
    model, x = Follower(in_place), torch.rand(3, 2)
    before = read_state(model, momentum=True)
    assert not changed_places(model, before)
    first = model(x)
    places = changed_places(model, before)
    assert set(places) == {('slow', 'weight', 'values'), ('slow', 'bias', 'values')}
    start = {place: before[place] for place in places}
    weight, values = model.slow.weight, model.slow.weight.clone()
    for _ in range(2):
        with forward_state(model, start):
            assert torch.equal(model(x), first)
        assert model.slow.weight is weight and torch.equal(weight, values)
    assert not read_state(model).keys() & set(places)


def test_a_released_recording_holds_no_result_of_a_method_with_its_graph():

    class Helped(nn.Module):

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def help(self, x):
            return self.layer(x)

        def forward(self, x):
            return self.help(x)

    model = Helped()
    recording = Recording(model, {}, 3, Facts((WatchedCall(model, 'help'), )))
    with recording:
        model(torch.rand(3, 2))
    assert recording.find_idle(set()) == {0}  # nothing comes from what it has returned
    recording.release_graph()
    assert recording.find_idle(set()) == frozenset()
