"""Scenes of digits: what is in them agrees with itself, comes from a seed, and splits share no digit."""
from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('sklearn', reason='the digits are part of scikit-learn')

from mmafan.datasets import digit_scenes, digits  # noqa: E402
from mmafan.datasets.digit_scenes import compose_scene, make_scenes, tight_box  # noqa: E402

NUM_SCENES = 40


@pytest.fixture(scope='module')
def scenes():
    return make_scenes('train', NUM_SCENES)


def test_shapes_and_types(scenes):
    for scene in scenes:
        n = len(scene.labels)
        assert scene.image.shape == (96, 96, 3) and scene.image.dtype == np.uint8
        assert scene.boxes.shape == (n, 4) and scene.boxes.dtype == np.int64
        assert scene.masks.shape == (n, 96, 96) and scene.masks.dtype == bool
        assert scene.semantic.shape == (96, 96) and scene.semantic.dtype == np.uint8
        assert scene.labels.dtype == np.int64 and set(scene.labels) <= set(range(10))


def test_every_count_and_class_occurs(scenes):
    assert {len(scene.labels) for scene in scenes} == {1, 2, 3, 4}
    assert {label for scene in scenes for label in scene.labels} == set(range(10))


def test_boxes_are_tight(scenes):
    for scene in scenes:
        for (x1, y1, x2, y2), mask in zip(scene.boxes, scene.masks):
            ys, xs = np.nonzero(mask)
            assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (x1, y1, x2, y2)


def test_masks_are_apart_and_make_up_the_semantic_map(scenes):
    for scene in scenes:
        assert scene.masks.sum(0).max() == 1
        expected = sum((1 + label) * mask.astype(int) for label, mask in zip(scene.labels, scene.masks))
        np.testing.assert_array_equal(scene.semantic, expected)


def test_digits_stand_out_from_the_background(scenes):
    inside = [scene.image[mask].mean() for scene in scenes for mask in scene.masks]
    outside = [scene.image[scene.semantic == 0].mean() for scene in scenes for _ in scene.masks]
    assert np.mean(np.array(inside) > np.array(outside)) > 0.9
    assert 20 < np.mean(inside) - np.mean(outside) < 100


def test_same_seed_same_scenes(scenes):
    np.random.seed(5)  # the global state has no part in it
    for one, other in zip(scenes, make_scenes('train', NUM_SCENES // 2)):
        for a, b in zip(one, other):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('split, seed', [('train', 1), ('test', 0)])
def test_other_seed_or_split_other_scenes(scenes, split, seed):
    assert not any(np.array_equal(a.image, b.image) for a, b in zip(scenes, make_scenes(split, 5, seed)))


def test_splits_share_no_digit(monkeypatch):
    given = {}

    def compose(pool, labels, random, *args):
        given[len(given)] = ({image.tobytes() for image in pool}, len(pool))

    monkeypatch.setattr(digit_scenes, 'compose_scene', compose)
    make_scenes('train', 1)
    make_scenes('test', 1)
    (train, num_train), (test, num_test) = given.values()
    images, _ = digits.load_digit_images()
    assert num_train + num_test == len(images) == 1797
    assert train | test == {image.tobytes() for image in images}
    assert not train & test


def test_split_is_that_of_the_digits_dataset():
    _, labels = digits.load_digit_images()
    for split in ('train', 'test'):
        dataset = digits.DigitsDataset(split=split)
        paths = [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]
        assert paths == [f'sklearn/digits/{i}' for i in digits.split_digits(labels, split)]


def test_no_free_place_leaves_a_digit_out():
    images, labels = digits.load_digit_images()
    counts = [len(compose_scene(images, labels, np.random.RandomState(i), 40, 4, (36, 36)).labels) for i in range(20)]
    assert set(counts) == {1}


@pytest.mark.parametrize('changes, word', [(dict(max_digits=0), 'max_digits'), (dict(sides=(4, 20)), 'sides'),
                                           (dict(sides=(20, 99)), 'sides'), (dict(sides=(30, 20)), 'sides')])
def test_wrong_argument_is_named(changes, word):
    images, labels = digits.load_digit_images()
    with pytest.raises(ValueError, match=f'{word} must '):
        compose_scene(images, labels, np.random.RandomState(0), **changes)


def test_wrong_split_is_named():
    with pytest.raises(ValueError, match="split must .*'val'"):
        make_scenes('val', 1)


def test_tight_box_of_one_pixel():
    mask = np.zeros((5, 7), bool)
    mask[2, 6] = True
    assert tight_box(mask).tolist() == [6, 2, 7, 3]
