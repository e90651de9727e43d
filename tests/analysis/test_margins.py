"""Margins against the distances of a linear classifier, and the layers that analyses look at."""
from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from torch import nn

from mmafan.analysis.margins import FeatureSpread, logit_margins, margin_distances, measure_margins


class Sample(dict):
    """A data sample with a label."""

    @property
    def gt_label(self):
        return self['gt_label']


class Linear(nn.Module):
    """``f = W (R x) + b`` with an orthogonal R, so that distances at the layer equal those at the input."""

    def __init__(self):
        super().__init__()
        self.turn, self.fc = nn.Linear(6, 6, bias=False).double(), nn.Linear(6, 4).double()
        self.turn.weight.data = torch.linalg.qr(self.turn.weight.data)[0]

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.fc(self.turn(inputs.flatten(1)))


def linear_case(norm):
    """A linear classifier, a batch, and by NumPy its signed distances, and the spread of the input."""
    model = Linear()
    x, y = torch.randn(9, 1, 2, 3, dtype=torch.float64), torch.randint(4, (9, ))
    w = (model.fc.weight @ model.turn.weight).detach().numpy()
    f = x.flatten(1).numpy() @ w.T + model.fc.bias.detach().numpy()
    expected = []
    for n, label in enumerate(y.tolist()):
        other = max((j for j in range(4) if j != label), key=lambda j: f[n, j])
        normal = w[label] - w[other]
        expected.append((f[n, label] - f[n, other]) / (np.sqrt((normal**2).sum()) if norm == 'l2' else
                                                       np.abs(normal).sum()))
    variances = x.flatten(1).numpy().var(axis=0)
    spread = np.sqrt(variances.sum() if norm == 'l2' else variances.mean())
    batches = [dict(inputs=x[k], data_samples=[Sample(gt_label=label[None]) for label in y[k]])
               for k in (slice(0, 5), slice(5, 9))]
    return model, batches, np.array(expected), spread, (x, y, f, w)


@pytest.mark.parametrize('norm', ['l2', 'linf'])
def test_margins_of_a_linear_classifier_are_its_distances(norm):
    model, batches, expected, spread, _ = linear_case(norm)
    distances, margins = measure_margins(model, batches, ['turn'], norm)
    assert list(distances) == ['inputs', 'turn']
    np.testing.assert_allclose(distances['inputs'], expected / spread, rtol=1e-9)
    assert ((margins > 0).numpy() == (expected > 0)).all() and 0 < (expected > 0).sum() < 9
    if norm == 'l2':  # turning changes neither distances nor the total variance
        np.testing.assert_allclose(distances['turn'], expected / spread, rtol=1e-9)


def test_a_step_of_the_distance_along_the_normal_ends_in_a_tie():
    model, batches, expected, _, (x, y, f, w) = linear_case('l2')
    for n, label in enumerate(y.tolist()):
        other = max((j for j in range(4) if j != label), key=lambda j: f[n, j])
        normal = w[label] - w[other]
        moved = x[n].numpy().ravel() - expected[n] * normal / np.linalg.norm(normal)
        logits = moved @ w.T + model.fc.bias.detach().numpy()
        assert logits[label] == pytest.approx(logits[other], abs=1e-9)


def test_logit_margins_by_hand():
    logits = torch.tensor([[3., 1., 2.], [3., 1., 2.], [0., 0., -1.]])
    assert logit_margins(logits, torch.tensor([0, 1, 0])).tolist() == [1, -2, 0]
    with pytest.raises(ValueError, match=r'got \(3, 3\) and \(2,\)'):
        logit_margins(logits, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r'K at least 2'):
        logit_margins(logits[:, :1], torch.tensor([0, 0, 0]))


def test_dual_norms_over_all_tensors_of_a_layer():
    gradients = [torch.tensor([[3., 0.]]), torch.tensor([[[0., -4.]]])]
    assert margin_distances(torch.tensor([10.]), gradients).tolist() == [2]
    assert margin_distances(torch.tensor([14.]), gradients, 'linf').tolist() == [2]
    with pytest.raises(ValueError, match="norm must be one of .* got 'l1'"):
        margin_distances(torch.tensor([1.]), gradients, 'l1')


def test_spread_over_batches_is_that_of_all_samples():
    features = torch.randn(10, 3, 4) * torch.rand(3, 4) + 5
    spread = FeatureSpread()
    for part in features.split(4):
        spread.add([part[:, :1], part[:, 1:]])
    variances = features.double().numpy().reshape(10, -1).var(axis=0)
    assert spread.value('l2') == pytest.approx(np.sqrt(variances.sum()), rel=1e-9)
    assert spread.value('linf') == pytest.approx(np.sqrt(variances.mean()), rel=1e-9)


def test_network_at_the_feature_before_its_linear_layer(tiny_classifier, tiny_batch):
    """Behind the neck the tiny classifier is linear, and its distances are known from its last weights."""
    model, data = tiny_classifier().eval(), tiny_batch(6)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    distances, margins = measure_margins(model, [data])
    assert list(distances) == ['inputs', 'backbone.conv1', 'backbone.layer1', 'backbone.layer2', 'backbone.layer3',
                               'backbone.layer4', 'neck', 'head']
    with torch.no_grad():
        h = model.extract_feat(data['inputs'])[-1].double().numpy()
    w, b = (p.detach().double().numpy() for p in model.head.fc.parameters())
    f, expected = h @ w.T + b, []
    for n, sample in enumerate(data['data_samples']):
        label = int(sample.gt_label)
        other = max((j for j in range(3) if j != label), key=lambda j: f[n, j])
        expected.append((f[n, label] - f[n, other]) / np.linalg.norm(w[label] - w[other]))
    np.testing.assert_allclose(distances['neck'], np.array(expected) / np.sqrt(h.var(axis=0).sum()), rtol=1e-3)
    np.testing.assert_allclose(margins, [f[n, int(s.gt_label)] - np.delete(f[n], int(s.gt_label)).max()
                                         for n, s in enumerate(data['data_samples'])], rtol=1e-3, atol=1e-6)
    assert all(p.grad is None for p in model.parameters()) and not data['inputs'].requires_grad
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize('change, layers, sentence', [
    ({}, ['trn'], r"layers must be modules of Linear, got 'trn'; did you mean 'turn'\?"),
    (dict(forward=lambda inputs, *_, **__: (inputs, )), ['turn'], r'gives logits \(N, K\), got tuple'),
    (dict(forward=lambda inputs, *_, **__: inputs), ['turn'], r'gives logits \(N, K\), got \(9, 1, 2, 3\)'),
    (dict(forward=lambda inputs, *_, **__: inputs.flatten(1)), ['turn'], "but 'turn' does not"),
])
def test_what_has_no_margins_is_refused(change, layers, sentence):
    model, batches, *_ = linear_case('l2')
    vars(model).update(change)
    batch = {k: sum((list(b[k]) for b in batches), []) for k in batches[0]}
    with pytest.raises(ValueError, match=sentence):
        measure_margins(model, [dict(batch, inputs=torch.stack(batch['inputs']))], layers)


def test_samples_without_one_label_are_refused():
    model, batches, *_ = linear_case('l2')
    for samples in ([Sample() for _ in range(5)], [Sample(gt_label=torch.tensor([0, 1]))] * 5, None):
        with pytest.raises(ValueError, match='one gt_label each'):
            measure_margins(model, [types.MappingProxyType(dict(batches[0], data_samples=samples))], ['turn'])
