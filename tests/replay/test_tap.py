"""What a clean pass leaves at a tap: features with their gradients, what is wrong with them, and some samples' rows."""
from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmafan.replay import TapCapture
from mmafan.replay.batch import Chosen
from mmafan.replay.tap import Record, autocasts


def feature(*shape):
    return torch.ones(shape, requires_grad=True)


def capture_of(*outputs):
    capture = TapCapture()
    capture.reach([])
    for output in outputs:
        capture.take(output)
    capture.finish()
    return capture


SPARSE = torch.eye(2).to_sparse()


@pytest.mark.parametrize('outputs, problem, idle', [
    ([], 'never ran in the forward pass of the loss', 'not reached'),
    ([('a', 1), None, ('b', )], 'returns NoneType, tuple, which holds no tensor', 'no gradient'),
    ([SPARSE], 'returns a sparse tensor, which a perturbation would fill', 'no gradient'),
    ([SPARSE.detach().requires_grad_()], 'returns a sparse tensor, which a perturbation would fill', 'no gradient'),
    ([(SPARSE, feature(2))], None, None),
    ([torch.arange(2)], 'returns no floating tensor with a dimension of samples', 'no gradient'),
    ([feature()], 'returns no floating tensor with a dimension of samples', 'no gradient'),
    ([torch.ones(2)], 'returns a feature without gradient (frozen parameters before it, a no_grad block, or reentrant '
                      'activation checkpointing)', 'no gradient'),
    ([(torch.ones(2), feature(2), torch.arange(3))], None, None),
    ([feature(0, 3)], None, 'no rows'),
    ([feature(0, 3), feature(1, 3)], None, None),
])
def test_what_cannot_be_perturbed_is_told(outputs, problem, idle):
    capture = capture_of(*outputs)
    assert (capture.problem(), capture.idle) == (problem, idle)


def test_the_gradient_at_a_feature_is_that_of_its_suffix_alone():
    f, g, label = feature(2, 3), feature(2), torch.arange(2)
    capture, seen = TapCapture(), []
    for output in (dict(f=f, label=label), (g, 'x')):
        seen.append(capture.take(output))
    loss = 3 * seen[0]['f'].sum() + 5 * f.sum() + 7 * g.sum()
    assert seen[0]['label'] is label and seen[1][1] == 'x'
    assert torch.equal(torch.autograd.grad(loss, capture.live[0], retain_graph=True)[0], torch.full((2, 3), 3.0))
    loss.backward()
    assert torch.equal(capture.gradients[0], torch.full((2, 3), 3.0)) and capture.gradients[1] is None
    assert torch.equal(f.grad, torch.full((2, 3), 8.0))
    assert not capture.gradients[0].requires_grad and len(capture.random_states) == 2
    assert [t.shape for t in capture.features] == [(2, 3), (2, )] and not any(t.requires_grad for t in capture.features)
    capture.release_graph()
    assert capture.live == []


@pytest.mark.parametrize('changes', ['nothing', 'feature', 'copy'])
def test_a_change_in_place_is_seen_at_the_feature_and_at_what_the_suffix_gets(changes):
    f, capture = feature(2) * 1, TapCapture()
    assert capture.changed is capture.autocast is False  # as long as nothing is known
    copy = capture.take(f)
    with torch.no_grad():
        dict(nothing=torch.zeros(1), feature=f, copy=copy)[changes].add_(1)
    assert capture.features[0].tolist() == ([2, 2] if changes == 'feature' else [1, 1])
    capture.finish()
    assert capture.changed is (changes != 'nothing')


def test_perturbed_features_take_the_places_of_clean_ones():
    capture = capture_of((torch.zeros(3), feature(3, 2)), [feature(3), torch.arange(3)])
    new = [torch.rand(2, 2), torch.rand(2)]
    first, second = capture.rebuild(new, Chosen(torch.tensor([0, 2]), 3))
    assert first[0].shape == (2, ) and first[1] is new[0] and second[0] is new[1] and second[1].tolist() == [0, 2]
    whole = [torch.rand(3, 2), torch.rand(3)]
    first, second = capture.rebuild(whole, None)
    assert first[0].shape == (3, ) and first[1] is whole[0] and second[1].tolist() == [0, 1, 2]


def test_what_waits_keeps_no_feature_and_the_rows_of_the_chosen_samples():
    capture = capture_of((torch.arange(3), feature(3, 2)))
    layer, watched = nn.ReLU(), [(torch.zeros(3), 0)]
    method = Record(object(), 'sample', torch.arange(3), watched=watched)
    capture.prefix = [Record(layer, 'forward', torch.arange(3), watched=watched), method]
    capture.gradients = [torch.ones(3, 2)]
    capture.keep_rows(Chosen(torch.tensor([1]), 3))
    assert capture.outputs[0][0].tolist() == [1] and capture.outputs[0][1].numel() == 0
    assert capture.gradients == [] and capture.prefix[1] is method
    record = capture.prefix[0]
    assert record.owner is layer and record.output.tolist() == [1] and record.watched == []
    assert capture.rebuild([torch.full((1, 2), 7.)], None)[0][1].tolist() == [[7, 7]]


def test_one_change_by_the_module_that_follows_is_allowed():
    """It replays too, and returns what it has made of it."""
    x, y = torch.ones(2), torch.ones(2)
    record = Record(nn.ReLU(), 'forward', None, watched=[(x, x._version), (y, y._version)])
    assert not record.changed
    x.add_(1)
    assert record.changed
    record.allow([y + 1, torch.ones(2)])
    assert record.changed
    record.allow([torch.ones(2), x])
    assert not record.changed and [t is one for (t, _), one in zip(record.watched, (x, y))] == [True, True]
    x.add_(1)
    x.add_(1)
    record.allow(x)
    assert record.changed
    nothing = Record(nn.ReLU(), 'forward', None)
    nothing.allow(x)
    assert not nothing.changed and Record(nn.ReLU(), 'forward', None).watched == []


@pytest.mark.parametrize('cpu', [False, True])
@pytest.mark.parametrize('gpu', [False, True])
def test_autocast_is_seen_by_torch_before_2_4(monkeypatch, cpu, gpu):
    older = SimpleNamespace(
        is_autocast_enabled=lambda: gpu, get_autocast_gpu_dtype=lambda: torch.float16,
        is_autocast_cpu_enabled=lambda: cpu, get_autocast_cpu_dtype=lambda: torch.bfloat16)
    monkeypatch.setattr('mmafan.replay.tap.torch', older)
    assert autocasts() == [('cpu', torch.bfloat16)] * cpu + [('cuda', torch.float16)] * gpu


def test_autocast_is_noted_where_the_tap_is_reached():
    found = []
    for enabled in (False, True):
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            found.append((autocasts(), capture_of(feature(1)).autocast))
    assert found == [([], False), ([('cpu', torch.bfloat16)], True)]
