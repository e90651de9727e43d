"""With `fraction` below 1 only what belongs to a sample is cut: sizes that are equal by chance prove nothing."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement
from torch import nn

from mmafan.models.exchange import doubtful_arguments, same_loss
from mmafan.replay import Batch, Chosen
from mmafan.replay.batch import select_samples

from ..nets import Net, rows
from ..rule import build, train

TAP = dict(s=dict(module='t', step_size=1e-13, fraction=0.67))


def fields(**changes):
    return dict(s=dict(TAP['s'], **changes))


class Weighted(Net):

    def forward(self, inputs, labels, weight=None, mode='tensor'):
        logits = self.run(inputs)[:, :3]
        chosen = 1.0 if weight is None else weight[labels % len(weight)]
        loss = nn.functional.cross_entropy(logits, labels, reduction='none')
        return {'loss': (loss * chosen).mean()}


class Table(Net):
    """Boxes of all images in one table, whose first column tells the image."""

    def forward(self, inputs, boxes, mode='tensor'):
        features = self.run(inputs)[boxes[:, 0].long() % len(inputs)]
        return {'loss': (features - boxes[:, 1:]).square().mean()}


@dataclasses.dataclass
class Targets:
    labels: torch.Tensor
    names: list


class Objects(Net):

    def forward(self, inputs, targets, mode='tensor'):
        assert len(targets.labels) == len(inputs)
        return {'loss': nn.functional.cross_entropy(self.run(inputs), targets.labels)}


class Boxes(Net):
    """A list of the boxes of each image, three in each of three images."""

    def forward(self, inputs, boxes, mode='tensor'):
        assert all(len(own) == 3 for own in boxes)
        means = torch.stack([own.mean(0) for own in boxes])
        return {'loss': (self.run(inputs) - means).square().mean()}


class Images(Net):
    """Images that are not stacked, of as many channels as there are images."""

    def forward(self, inputs, data_samples, mode='tensor'):
        assert all(image.shape == (3, 2) for image in inputs) and len(data_samples) == len(inputs)
        return {'loss': self.run(torch.stack(inputs).flatten(1)).square().mean()}


class Dropping(Weighted):

    def __init__(self):
        super().__init__()
        self.c = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 6))


LABELS = torch.tensor([0, 1, 0])
GOOD = dict(
    labels=(Weighted, lambda n: (rows(n, 3), LABELS)),
    dropout=(Dropping, lambda n: (rows(n, 3), LABELS)),
    weights_of_other_classes=(Weighted, lambda n: (rows(n, 3), LABELS, torch.tensor([1., 2., 3., 4.]))),
    objects=(Objects, lambda n: (rows(n, 3), Targets(LABELS, ['a', 'b', 'c', 'd']))),
    boxes=(Boxes, lambda n: (rows(n, 3), [rows(n + k, 3) for k in range(3)])),
    images=(Images, lambda n: (list(rows(n, 3).view(3, 3, 2)), [BaseDataElement() for _ in range(3)])))
BAD = dict(
    class_weights=(Weighted, lambda n: (rows(n, 3), LABELS, torch.tensor([1., 2., 3.]))),
    table=(Table, lambda n: (rows(n, 3), torch.cat([torch.tensor([[0.], [1.], [1.], [2.], [0.]]),
                                                    rows(n, 5)], 1).double())),
    table_of_that_size=(Table, lambda n: (rows(n, 3), torch.cat([torch.tensor([[0.], [0.], [2.]]), rows(n + 9, 3)],
                                                                1).double())))


@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
@pytest.mark.parametrize('case', GOOD)
def test_samples_are_cut(case, schedule):
    """The adversarial gradient is that of two of the three samples, scaled to a mean."""
    cls, make = GOOD[case]
    log = train(build(cls, taps=TAP, schedule=schedule), make, 3)
    assert all('adv_s_0.loss' in variables for _, variables in log)


def test_the_terms_are_those_of_the_chosen_samples():
    model = build(Weighted, taps=TAP)
    seen = []
    train(model, GOOD['labels'][1], 1)
    model.c.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    log = train(model, GOOD['labels'][1], 1)[0][1]
    assert seen == [3, 2]
    stock, (inputs, labels) = build(Weighted), GOOD['labels'][1](0)
    pairs = [float(stock(inputs[[i, j]], labels[[i, j]])['loss'].detach()) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert any(log['adv_s_0.loss'] == pytest.approx(pair, rel=1e-9) for pair in pairs)


@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
@pytest.mark.parametrize('case', BAD)
def test_what_cannot_be_told_apart_is_refused_before_a_weight_changes(case, schedule):
    cls, make = BAD[case]
    model = build(cls, taps=TAP, schedule=schedule)
    with pytest.raises(ValueError, match=r'afan\.taps\.s\.fraction must be 1\.0 for this model, got 0\.67: when the '
                                         r"samples of a batch change places its loss changes from .* of '1'"):
        train(model, make, 1)


@pytest.mark.parametrize('case', BAD)
def test_all_samples_together_need_no_such_knowledge(case):
    cls, make = BAD[case]
    log = train(build(cls, taps=fields(fraction=1.0)), make, 1)[0][1]
    assert log['adv_s_0.loss'] == pytest.approx(log['clean_loss'], rel=1e-9)


def test_weights_that_are_not_cut_in_the_first_batch_never_are():
    """Four weights beside three images, then beside four."""

    def make(number):
        count = 3 if number == 0 else 4
        return rows(number, count), torch.arange(count) % 3, torch.tensor([1., 2., 3., 4.])

    seen = []

    class Looking(Weighted):

        def forward(self, inputs, labels, weight, mode='tensor'):
            seen.append((len(inputs), len(labels), len(weight)))
            return super().forward(inputs, labels, weight, mode)

    train(build(Looking, taps=fields(fraction=0.5)), make, 2)
    assert seen[-1] == (2, 2, 4)


def test_dropout_is_awake_again():
    model = build(Dropping, taps=TAP)
    train(model, GOOD['dropout'][1], 1)
    assert all(module.training for module in model.modules())


def test_a_batch_is_cut_where_it_has_samples():
    names, table = ['a', 'b'], np.arange(6).reshape(3, 2)
    batch = Batch((), dict(inputs=torch.arange(3), table=table, names=names, deep=dict(y=[4, 5, 6], z=torch.arange(2))),
                  lambda inputs: None)
    cut = batch.select(Chosen(torch.tensor([0, 2]), 3))
    assert cut.inputs.tolist() == [0, 2] and cut.kwargs['table'].tolist() == [[0, 1], [4, 5]]
    assert cut.kwargs['names'] is names and cut.kwargs['deep']['y'] == [4, 6] and len(cut.kwargs['deep']['z']) == 2
    assert batch.per_sample() == {('inputs', ), ('table', ), ('deep', 'y')}
    known = batch.select(Chosen(torch.tensor([0, 2]), 3), frozenset([('table', )]))
    assert known.inputs.tolist() == [0, 2] and known.kwargs['deep']['y'] == [4, 5, 6]
    assert doubtful_arguments(batch) == ['table', 'names', 'deep']
    assert doubtful_arguments(Batch((torch.arange(2), [BaseDataElement(), BaseDataElement()], None), {})) == []


@pytest.mark.parametrize('dtype, after, is_same', [
    (torch.float32, 1.00005, True), (torch.float32, 1.0005, False), (torch.float64, 0.9995, False),
    (torch.float16, 1.005, True), (torch.bfloat16, 0.98, False), (torch.bfloat16, 0.995, True)])
def test_losses_are_the_same_up_to_the_rounding_of_the_features(dtype, after, is_same):
    features = [torch.zeros(1), torch.zeros(1, dtype=dtype)]
    assert same_loss(after, 1.0, features, 1e-4) is is_same
    assert same_loss(5e-7, 0.0, features, 1e-4) and not same_loss(2e-4, 0.0, features, 1e-4)
    assert same_loss(1.0, float('inf'), features, 1e-4) and not same_loss(float('nan'), 1.0, features, 1e-4)


def test_a_list_of_samples_and_a_tensor_of_samples_are_cut_and_others_are_not():
    chosen, three = Chosen(torch.tensor([0, 2]), 3), torch.arange(3)
    value = dict(names=['a', 'b', 'c'], pair=(1, 2), triple=(1, 2, 3), many=[three, three + 3, three + 6],
                 rows=torch.arange(6).reshape(3, 2), other=torch.arange(4), scalar=torch.tensor(3))
    found = select_samples(value, chosen)
    assert found['names'] == ['a', 'c'] and found['pair'] == (1, 2) and found['triple'] == (1, 3)
    assert [rows.tolist() for rows in found['many']] == [[0, 2], [3, 5], [6, 8]]  # of each level its samples
    assert found['rows'].tolist() == [[0, 1], [4, 5]] and len(found['other']) == 4 and found['scalar'] == 3
    assert select_samples(value, None) is value
