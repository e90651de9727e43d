"""The embedded data set: what is in it, how it is split, and that a stock pipeline can use it."""
from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip('sklearn', reason='the images are part of scikit-learn')

from mmafan.datasets import DigitsDataset  # noqa: E402
from mmafan.registry import DATASETS  # noqa: E402


def source_indices(dataset):
    return [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]


def test_two_splits_hold_every_image_once():
    train, test = DigitsDataset(split='train'), DigitsDataset(split='test')
    paths = source_indices(train) + source_indices(test)
    assert len(paths) == 1797
    assert len(set(paths)) == 1797
    assert abs(len(train) - len(test)) <= 10


def test_images_are_those_of_the_source():
    from sklearn.datasets import load_digits
    source = load_digits()
    dataset = DigitsDataset(split='test', image_size=8)
    for i in range(0, len(dataset), 100):
        info = dataset.get_data_info(i)
        number = int(info['img_path'].rsplit('/', 1)[1])
        assert info['gt_label'] == source.target[number]
        np.testing.assert_allclose(info['img'][:, :, 1], source.images[number] * 255 / 16, atol=0.5)


@pytest.mark.parametrize('size', [8, 16, 32])
def test_shape_type_and_range(size):
    item = DigitsDataset(split='train', image_size=size, num_train_samples=20)[0]
    assert item['img'].shape == (size, size, 3)
    assert item['img'].dtype == np.uint8
    assert item['img'].max() > 150
    assert isinstance(item['gt_label'], int)


def test_metainfo_names_ten_classes():
    assert DigitsDataset().metainfo['classes'] == ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')


@pytest.mark.parametrize('count', [10, 50, 200])
def test_small_train_split_is_balanced_and_part_of_the_larger(count):
    small = DigitsDataset(num_train_samples=count)
    assert len(small) == count
    labels = [small.get_data_info(i)['gt_label'] for i in range(count)]
    assert np.bincount(labels, minlength=10).tolist() == [count // 10] * 10
    larger = set(source_indices(DigitsDataset(num_train_samples=count + 100)))
    assert set(source_indices(small)) < larger


def test_train_size_leaves_the_test_split_alone():
    plain = source_indices(DigitsDataset(split='test'))
    assert source_indices(DigitsDataset(split='test', num_train_samples=10)) == plain


def test_split_ignores_the_global_random_state():
    np.random.seed(1)
    first = source_indices(DigitsDataset(num_train_samples=30))
    np.random.seed(2)
    assert source_indices(DigitsDataset(num_train_samples=30)) == first


@pytest.mark.parametrize('field, value', [('split', 'val'), ('image_size', 4), ('image_size', 16.0),
                                          ('test_fraction', 1.5), ('num_train_samples', 0),
                                          ('num_train_samples', 5000)])
def test_wrong_argument_is_named(field, value):
    with pytest.raises(ValueError, match=f'{field} must .*{value}'):
        DigitsDataset(**{field: value})


def test_missing_scikit_learn_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(ImportError, match='pip install scikit-learn'):
        DigitsDataset()


def test_builds_from_a_stock_scope_with_a_stock_pipeline():
    pytest.importorskip('mmpretrain', reason='needs a stock pipeline of mmpretrain')
    from mmengine.registry import DATASETS as ROOT
    from mmengine.registry import DefaultScope, init_default_scope
    config = dict(
        type='mmafan.DigitsDataset',
        split='test',
        image_size=16,
        pipeline=[dict(type='RandomCrop', crop_size=16, padding=2), dict(type='PackInputs')])
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        init_default_scope('mmpretrain')
        dataset = ROOT.build(config)
    item = dataset[3]
    assert tuple(item['inputs'].shape) == (3, 16, 16)
    assert item['data_samples'].gt_label.item() == dataset.get_data_info(3)['gt_label']
    assert item['data_samples'].img_path.startswith('sklearn/digits/')


def test_registered_in_mmafan():
    assert DATASETS.get('DigitsDataset') is DigitsDataset


def test_names_of_the_classes_as_tools_of_mmpretrain_ask_for_them():
    assert DigitsDataset(split='test', lazy_init=True).CLASSES == tuple('0123456789')
