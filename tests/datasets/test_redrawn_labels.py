"""Wrong labels: how many, which, and that a data loader of mmpretrain takes them."""
from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('mmpretrain', reason='data samples with labels are mmpretrain\'s')
pytest.importorskip('sklearn', reason='the images are part of scikit-learn')

from mmafan.datasets import DigitsDataset, RedrawnLabels  # noqa: E402
from mmafan.registry import DATASETS  # noqa: E402

DIGITS = dict(type='mmafan.DigitsDataset', split='train', num_train_samples=500,
              pipeline=[dict(type='mmpretrain.PackInputs')])


def labels_of(dataset):
    return np.array([int(dataset[i]['data_samples'].gt_label) for i in range(len(dataset))])


@pytest.fixture(scope='module')
def digits():
    dataset = DigitsDataset(split='train', num_train_samples=500, pipeline=[dict(type='mmpretrain.PackInputs')])
    return dataset, labels_of(dataset)


def test_the_share_that_is_redrawn_and_the_share_that_is_wrong(digits):
    dataset, clean = digits
    noisy = RedrawnLabels(dataset, share=0.4, num_classes=10, seed=3)
    assert len(noisy) == 500 and len(noisy.labels) == 200
    changed = labels_of(noisy) != clean
    assert set(np.flatnonzero(changed)) <= set(noisy.labels)
    # 200 draws, each wrong with probability 0.9: mean 180, standard deviation 4.2.
    assert 180 - 4 * 4.3 < changed.sum() < 180 + 4 * 4.3


def test_the_seed_alone_decides(digits):
    dataset, clean = digits
    first, second, other = (labels_of(RedrawnLabels(dataset, 0.4, 10, seed)) for seed in (0, 0, 1))
    assert (first == second).all() and (first != other).any()
    assert (labels_of(RedrawnLabels(dataset, 0, 10)) == clean).all()
    assert (labels_of(dataset) == clean).all()  # the data set itself is left as it was


def test_it_is_built_from_a_config():
    built = DATASETS.build(dict(type='mmafan.RedrawnLabels', dataset=DIGITS, share=1.0, num_classes=2))
    assert set(labels_of(built)) == {0, 1}
    assert built.metainfo == built.dataset.metainfo


@pytest.mark.parametrize('fields, sentence', [
    (dict(share=1.5, num_classes=10), r'RedrawnLabels.share must be a number in \[0, 1\], got 1.5'),
    (dict(share=True, num_classes=10), r'RedrawnLabels.share must be a number in \[0, 1\], got True'),
    (dict(share=0.1, num_classes=1), 'RedrawnLabels.num_classes must be an integer of at least 2, got 1'),
])
def test_wrong_arguments_are_one_sentence(digits, fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        RedrawnLabels(digits[0], **fields)
