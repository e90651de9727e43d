"""The norms of a model, after conversions of its layers, and how many samples they need."""
from __future__ import annotations

import pytest
from torch import nn

from mmafan.layers import AFANNorm, PassAwareNorm
from mmafan.models.norms import ModelNorms


def model_of(*norms):
    return nn.Sequential(nn.Linear(4, 4), *norms)


def policies(model):
    return [getattr(module, 'policy', 'none') for module in model[1:]]


def test_norms_have_their_class_and_their_own_policies_again_after_a_conversion():
    model = model_of(AFANNorm(4, policy='shared'), nn.BatchNorm2d(4), AFANNorm(4, policy='separate'), nn.LayerNorm(4))
    norms = ModelNorms(model, 'separate')
    assert policies(model) == ['shared', None, 'separate', 'none']
    for k in range(2):  # twice, and once more without a conversion
        for number in (1, 2, 3):
            model[number] = nn.BatchNorm2d(4)
        norms.restore(model)
        assert policies(model) == ['shared', None, 'separate', 'none']
        assert all(isinstance(norm, PassAwareNorm) for norm in model[1:4])
        assert [len(norm._modules) for norm in model[1:4]] == [0, 1, 1]  # auxiliary norms
        assert list(norms._norms) == list(model[1:4])
    norms.restore(model)
    assert policies(model) == ['shared', None, 'separate', 'none']


@pytest.mark.parametrize('number', [1, 2])
def test_norms_that_are_none_any_more_are_counted(number):
    model = model_of(*(nn.BatchNorm2d(4) for _ in range(3)))
    norms = ModelNorms(model, 'batch')
    for k in range(number):
        model[k + 1] = nn.Identity()
    with pytest.raises(ValueError) as error:
        norms.restore(model)
    assert str(error.value) == (
        f"afan.batch_norm='batch' needs the 3 batch norms the model was built with, but {number} of them have been "
        "replaced by layers that are none; remove that conversion, or use afan.batch_norm='shared'")


def test_a_model_may_get_further_norms():
    model = model_of(nn.BatchNorm2d(4))
    norms = ModelNorms(model, 'frozen')
    model.append(nn.BatchNorm2d(4))
    norms.restore(model)
    assert isinstance(model[2], PassAwareNorm) and policies(model) == [None, None]


@pytest.mark.parametrize('policy', ['shared', 'batch', 'frozen', 'separate'])
def test_a_pass_needs_two_samples_where_a_norm_uses_the_statistics_of_the_batch(policy):
    model = model_of(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    norms = ModelNorms(model, policy)
    of_batch = 1 if policy == 'frozen' else 2
    assert norms.least_samples == of_batch
    model[1].eval()
    assert norms.least_samples == of_batch
    model.eval()
    assert norms.least_samples == 1
    assert ModelNorms(model_of(), policy).least_samples == 1
