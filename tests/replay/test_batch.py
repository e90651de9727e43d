"""What of a batch belongs to a sample, where the inputs are, and what a pass may change."""
from __future__ import annotations

import inspect
from collections import namedtuple

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn

from mmafan.replay.batch import Batch, Chosen, batch_size_of, is_feature, select_elements, select_samples

Pair = namedtuple('Pair', 'first second')


class Items(list):
    """A list of a kind of its own: what it counts is not known."""


@pytest.mark.parametrize('tensor, expected', [
    (torch.zeros(2), True), (torch.zeros(2, 3), True), (torch.zeros(2, dtype=torch.float16), True),
    (torch.zeros(()), False), (torch.zeros(2, dtype=torch.long), False), (torch.zeros(2, dtype=torch.bool), False),
    (torch.zeros(2, 3).to_sparse(), False)])
def test_a_tap_perturbs_dense_floating_tensors_with_samples(tensor, expected):
    assert is_feature(tensor) is expected


@pytest.mark.parametrize('inputs, size', [
    (torch.zeros(4, 2), 4), ([torch.zeros(2)] * 3, 3), ((1, 2), 2), (dict(points=[1, 2, 3], image=torch.zeros(5)), 3),
    (dict(a=dict(b=torch.zeros(6))), 6), ([], 0)])
def test_the_size_is_the_number_of_samples_of_the_inputs(inputs, size):
    assert batch_size_of(inputs) == size and Batch((1, ), dict(inputs=inputs)).size == size


@pytest.mark.parametrize('inputs, name', [(None, 'NoneType'), ({}, 'dict'), ('ab', 'str'), (dict(a=3), 'int')])
def test_inputs_without_samples_are_refused(inputs, name):
    with pytest.raises(TypeError, match=f'must be a tensor, a list or a dict of them, got {name}'):
        batch_size_of(inputs)


def test_chosen_samples_travel_to_a_device_once():
    chosen = Chosen(torch.tensor([0, 2]), 3)
    assert (chosen.numbers, chosen.size) == ([0, 2], 3)
    meta = chosen.on(torch.device('meta'))
    assert meta.device.type == 'meta' and chosen.on(torch.device('meta')) is meta
    assert chosen.rows(torch.tensor([[1, 2], [3, 4], [5, 6]])).tolist() == [[1, 2], [5, 6]]


def plain(value):
    """Write tensors and arrays as lists, which can be compared."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return type(value)(*map(plain, value)) if hasattr(value, '_fields') else type(value)(map(plain, value))
    return {name: plain(item) for name, item in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize('value, expected', [
    (torch.arange(3), [0, 2]), (torch.arange(2), [0, 1]), (torch.tensor(3), 3),
    (torch.arange(6).view(2, 3), [[0, 1, 2], [3, 4, 5]]), (['a', 'b', 'c'], ['a', 'c']), (('a', 'b'), ('a', 'b')),
    (('a', 'b', 'c'), ('a', 'c')), (Items('abc'), Items('abc')), (dict(a=[1, 2, 3], b=[1]), dict(a=[1, 3], b=[1])),
    (Pair(torch.arange(3), ['a', 'b', 'c']), Pair([0, 2], ['a', 'c'])),
    # As many levels as samples, by chance: what has a row for each sample is cut, and not the list of the levels.
    ([torch.arange(3), torch.arange(3), torch.arange(3)], [[0, 2]] * 3),
    ([torch.arange(2), torch.arange(2), torch.arange(3)], [[0, 1], [0, 1], [0, 2]]),
    ([torch.arange(2), torch.arange(1), torch.arange(4)], [[0, 1], [0, 1, 2, 3]]),
    (['a', 'b', 'c', 'd'], ['a', 'b', 'c', 'd']), (torch.arange(4), [0, 1, 2, 3])])
def test_what_counts_the_samples_is_cut(value, expected):
    cut = plain(select_samples(value, Chosen(torch.tensor([0, 2]), 3)))
    assert cut == expected and type(cut) is type(expected)
    assert select_samples(value, None) is value


def test_batches_of_any_size_are_cut():
    chosen = Chosen(torch.arange(0, 300, 100), 300)
    value = dict(rows=torch.arange(300), items=list(range(300)), table=np.arange(300))
    cut = plain(select_samples(value, chosen))
    assert cut['rows'] == cut['items'] == [0, 100, 200] and len(cut['table']) == 300
    assert [int(one.number) for one in select_elements(elements(300), chosen)] == [0, 100, 200]
    batch = Batch((), dict(inputs=torch.zeros(300), **value))
    assert batch.per_sample() == {('inputs', ), ('rows', ), ('items', ), ('table', )}
    cut = plain(batch.select(chosen).kwargs)
    assert len(cut['inputs']) == 3 and cut['rows'] == cut['items'] == cut['table'] == [0, 100, 200]


def elements(count):
    return [InstanceData(number=torch.tensor([k])) for k in range(count)]


@pytest.mark.parametrize('value, kept', [
    (elements(3), [0, 2]), (elements(6), [0, 2, 3, 5]), (elements(4), [0, 1, 2, 3]), (tuple(elements(3)), [0, 1, 2])])
def test_elements_are_cut_branch_after_branch(value, kept):
    found = select_elements(dict(results=value), Chosen(torch.tensor([0, 2]), 3))['results']
    assert [int(one.number) for one in found] == kept and type(found) is type(value)


def test_lists_of_anything_else_than_elements_stay_whole():
    value = dict(none=[], mixed=[*elements(2), 'text'], numbers=[1, 2, 3], rows=torch.arange(3))
    found = select_elements(value, Chosen(torch.tensor([0, 2]), 3))
    assert found['none'] == [] and len(found['mixed']) == len(found['rows']) == 3 and found['numbers'] == [1, 2, 3]


# ---------------------------------------------------------------------- the place of the inputs
@pytest.mark.parametrize('function, args, kwargs, inputs', [
    (lambda *data, inputs=None: 0, (1, 2), {}, 1), (lambda *data, inputs=None: 0, (1, ), dict(inputs=2), 2),
    (lambda img, /, target=None: 0, (1, ), dict(target=2), 1), (lambda target, img=0, /: 0, (1, 2), {}, 1),
    (lambda mode, *, img, target: 0, (), dict(mode='loss', target=2, img=1), 1),
    (lambda **data: 0, (), {''.join(['mo', 'de']): 'loss', 'target': 1, 'weight': 2}, 1)])
def test_the_inputs_are_found_in_a_signature_of_any_kind(function, args, kwargs, inputs):
    assert Batch(args, kwargs, function).inputs == inputs


def test_the_inputs_of_a_method_are_found_and_its_signature_is_read_once(monkeypatch):

    class Model(nn.Module):

        def forward(self, labels, inputs=None, weight=None):
            return 0

    read, signature = [], inspect.signature
    monkeypatch.setattr(inspect, 'signature', lambda function: read.append(function) or signature(function))
    for _ in range(2):
        assert Batch((1, 2), {}, Model().forward).inputs == 2
        assert Batch((1, ), dict(weight=2), Model().forward).inputs == 1
    assert len(read) == 2  # for each kind of call


def test_a_batch_is_made_of_what_a_preprocessor_returns():
    named, by_place = Batch.of(dict(labels=1, inputs=2)), Batch.of([1, 2], lambda labels, inputs: 0)
    assert (named.args, named.kwargs, named.inputs) == ((), dict(labels=1, inputs=2), 2)
    assert (by_place.args, by_place.kwargs, by_place.inputs) == ((1, 2), {}, 2)


@pytest.mark.parametrize('function, args, kwargs, changed', [
    (lambda inputs, b, c: 0, (1, 2), dict(c=3), ((9, 2), dict(c=3))),
    (lambda a, inputs, c: 0, (1, 2, 3), {}, ((1, 9, 3), {})), (lambda a, b, inputs: 0, (1, 2, 3), {}, ((1, 2, 9), {})),
    (lambda a, inputs, c: 0, (1, ), dict(inputs=2, c=3), ((1, ), dict(inputs=9, c=3)))])
def test_other_inputs_take_the_place_of_its_own(function, args, kwargs, changed):
    batch = Batch(args, kwargs, function)
    made = batch.with_inputs(9)
    assert (made.args, made.kwargs) == changed and made.inputs == 9
    assert (batch.args, batch.kwargs) == (args, kwargs)


# ---------------------------------------------------------------------- what a pass may change
def sample_batch():
    images, labels = [torch.zeros(2), torch.ones(2)], torch.arange(2)
    return Batch((images, ), dict(labels=labels, shared=images[1], meta=dict(table=np.arange(2), note='x')),
                 lambda inputs, **rest: 0)


@pytest.mark.parametrize('changed, of_inputs', [
    (None, True), (frozenset(['inputs']), True), (frozenset(['inputs', 'rest']), True), (frozenset(['rest']), False)])
def test_a_pass_is_given_copies_of_what_it_may_change(changed, of_inputs):
    batch = sample_batch()
    own = batch.own(changed)
    (images, ), rest = own.args, own.kwargs
    for copied, stock in zip((*images, rest['shared']), (*batch.inputs, batch.inputs[1])):
        assert torch.equal(copied, stock) and (copied is not stock) == of_inputs
    assert images[1] is rest['shared']  # what is one stays one
    assert rest['labels'].tolist() == [0, 1] and rest['labels'] is not batch.kwargs['labels']
    assert rest['meta']['table'].tolist() == [0, 1] and rest['meta']['note'] == 'x'
    rest['meta']['table'][0], rest['labels'][0] = 7, 7
    rest['meta']['more'] = images.pop()
    assert len(batch.inputs) == 2 and batch.kwargs['labels'][0] == 0
    assert [*batch.kwargs['meta']] == ['table', 'note'] and batch.kwargs['meta']['table'][0] == 0


def test_a_pass_that_changes_nothing_is_given_the_batch_itself():
    batch = sample_batch()
    assert batch.own(frozenset()) is batch


def test_inputs_by_name_are_told_from_the_rest_in_every_call():

    class Model(nn.Module):

        def forward(self, img, labels):
            return 0

    for _ in range(2):  # the name of the second call is another object
        batch = Batch((), {''.join(['im', 'g']): torch.zeros(1), 'labels': torch.zeros(1)}, Model().forward)
        own = batch.own()
        own.kwargs['img'].add_(1)
        assert batch.changes(own) == {'inputs'}


@pytest.mark.parametrize('change, found', [
    (lambda own: None, set()), (lambda own: own.inputs[0].add_(1), {'inputs'}),
    (lambda own: own.inputs.pop(), {'inputs'}), (lambda own: own.kwargs['labels'].add_(1), {'rest'}),
    (lambda own: own.kwargs['meta'].pop('note'), {'rest'}), (lambda own: own.inputs[1].add_(1), {'inputs', 'rest'}),
    (lambda own: own.kwargs['meta']['table'].put(0, 5) or own.inputs[0].zero_(), {'inputs', 'rest'})])
def test_what_a_forward_has_changed_in_a_copy_is_found(change, found):
    batch = sample_batch()
    own = batch.own()
    change(own)
    assert batch.changes(own) == found


def test_by_position_the_inputs_are_told_from_the_rest():
    batch = Batch((torch.zeros(2), torch.zeros(2)), {}, lambda labels, inputs: 0)
    for number, expected in enumerate(('rest', 'inputs')):
        own = batch.own()
        own.args[number][0] = 1
        assert batch.changes(own) == {expected}


# ---------------------------------------------------------------------- the batch of some samples
def mixed_batch():
    return Batch((torch.arange(3), torch.arange(3) * 2), dict(
        names=('a', 'b', 'c'), table=np.arange(6).reshape(3, 2), wide=np.arange(2), number=np.array(3),
        scalar=torch.tensor(3), deep=[dict(y=[4, 5, 6], z=torch.arange(2)), dict(y=[7, 8, 9])],
        pair=(torch.arange(3), [1, 2, 3]),
        own=Items([1, 2, 3]), more=[1, 2, 3, 4], long=torch.arange(4)), lambda labels, inputs, **rest: 0)


def test_what_has_a_row_or_item_for_each_sample_is_known_by_its_place():
    assert mixed_batch().per_sample() == {
        (0, ), (1, ), ('names', ), ('table', ), ('deep', '*', 'y'), ('pair', 0), ('pair', 1)}


def test_a_batch_of_some_samples_has_their_rows_and_items():
    batch = mixed_batch()
    assert batch.select(None) is batch and batch.size == 3
    cut = batch.select(Chosen(torch.tensor([0, 2]), 3))
    assert plain(cut.args) == ([0, 2], [0, 4]) and cut.inputs is cut.args[1]
    assert plain(cut.kwargs) == dict(
        names=('a', 'c'), table=[[0, 1], [4, 5]], wide=[0, 1], number=3, scalar=3,
        deep=[dict(y=[4, 6], z=[0, 1]), dict(y=[7, 9])], pair=([0, 2], [1, 3]), own=Items([1, 2, 3]), more=[1, 2, 3, 4],
        long=[0, 1, 2, 3])
    assert type(cut.kwargs['own']) is Items and cut.kwargs['own'] is batch.kwargs['own']
    assert plain(batch.args) == ([0, 1, 2], [0, 2, 4]) and batch.kwargs['deep'][0]['y'] == [4, 5, 6]


def test_what_has_nothing_for_each_sample_stays_the_same_object():
    shared, chosen = dict(a=[1, 2], b=torch.zeros(4)), Chosen(torch.tensor([0, 2]), 3)
    cut = Batch((torch.arange(3), shared), dict(rest=shared)).select(chosen)
    assert cut.args[1] is cut.kwargs['rest'] is shared


def test_where_it_is_known_what_belongs_to_samples_only_that_and_the_inputs_are_cut():
    cut = mixed_batch().select(Chosen(torch.tensor([0, 2]), 3), frozenset([('deep', '*', 'y'), ('pair', 1)]))
    assert plain(cut.args) == ([0, 1, 2], [0, 4]) and len(cut.kwargs['table']) == len(cut.kwargs['names']) == 3
    assert plain(cut.kwargs['deep']) == [dict(y=[4, 6], z=[0, 1]), dict(y=[7, 9])]
    assert plain(cut.kwargs['pair']) == ([0, 1, 2], [1, 3])
