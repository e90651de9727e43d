"""Files of scenes: stock readers read back what was composed, the same settings give the same bytes."""
from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip('sklearn', reason='the digits are part of scikit-learn')

from mmafan.datasets import scene_files  # noqa: E402
from mmafan.datasets.digit_scenes import make_scenes  # noqa: E402
from mmafan.datasets.scene_files import encode_rle, write_scenes  # noqa: E402

COUNTS = dict(num_train=6, num_test=4)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('data') / 'scenes'
    write_scenes(path, **COUNTS)
    return path


def content(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob('*')) if file.is_file()}


def test_same_settings_same_bytes(folder, tmp_path):
    write_scenes(tmp_path / 'again', **COUNTS)
    files = content(folder)
    assert files == content(tmp_path / 'again')
    assert len(files) == 1 + 2 + 2 * sum(COUNTS.values())
    write_scenes(tmp_path / 'other', seed=1, **COUNTS)
    assert content(tmp_path / 'other')['train/000000.png'] != files['train/000000.png']


def test_pictures_are_lossless(folder):
    import cv2
    for split, count in (('train', 6), ('test', 4)):
        for number, scene in enumerate(make_scenes(split, count)):
            np.testing.assert_array_equal(cv2.imread(str(folder / split / f'{number:06d}.png')), scene.image)
            semantic = cv2.imread(str(folder / 'semantic' / split / f'{number:06d}.png'), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(semantic, scene.semantic)


@pytest.mark.parametrize('split, count', [('train', 6), ('test', 4)])
def test_pycocotools_reads_boxes_and_masks(folder, split, count):
    coco = pytest.importorskip('pycocotools.coco', reason='reads the annotations')
    api = coco.COCO(str(folder / 'annotations' / f'{split}.json'))
    assert [c['name'] for c in api.loadCats(api.getCatIds())] == list('0123456789')
    for number, scene in enumerate(make_scenes(split, count)):
        found = api.loadAnns(api.getAnnIds(imgIds=[number]))
        assert [a['category_id'] for a in found] == scene.labels.tolist()
        assert all(a['iscrowd'] == 0 and a['id'] > 0 for a in found)
        for annotation, box, mask in zip(found, scene.boxes, scene.masks):
            x, y, width, height = annotation['bbox']
            assert [x, y, x + width, y + height] == box.tolist()
            assert annotation['area'] == mask.sum()
            np.testing.assert_array_equal(api.annToMask(annotation).astype(bool), mask)


def test_stock_dataset_of_mmdet_reads_them(folder):
    pytest.importorskip('mmdet', reason='has the data set')
    from mmdet.registry import DATASETS
    from mmengine.registry import init_default_scope
    init_default_scope('mmdet')
    dataset = DATASETS.build(
        dict(type='CocoDataset', data_root=str(folder), ann_file='annotations/train.json',
             data_prefix=dict(img='train/'), metainfo=dict(classes=tuple('0123456789')),
             pipeline=[dict(type='LoadImageFromFile'),
                       dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
                       dict(type='PackDetInputs')]))
    assert len(dataset) == COUNTS['num_train']
    for item, scene in zip(dataset, make_scenes('train', COUNTS['num_train'])):
        np.testing.assert_array_equal(item['inputs'].permute(1, 2, 0).numpy(), scene.image)
        truth = item['data_samples'].gt_instances
        np.testing.assert_array_equal(truth.bboxes.tensor.numpy(), scene.boxes)
        np.testing.assert_array_equal(truth.labels.numpy(), scene.labels)
        np.testing.assert_array_equal(truth.masks.masks.astype(bool), scene.masks)


@pytest.mark.parametrize('mask, counts', [
    ([[0, 0], [0, 0]], [4]),
    ([[1, 1], [1, 1]], [0, 4]),
    ([[1, 0], [0, 0]], [0, 1, 3]),
    ([[0, 1, 0], [1, 1, 0]], [1, 3, 2]),
])
def test_run_lengths(mask, counts):
    assert encode_rle(np.array(mask, bool)) == dict(size=list(np.shape(mask)), counts=counts)


def test_finished_folder_is_left_alone(folder, monkeypatch):
    monkeypatch.setattr(scene_files, 'make_scenes', None)
    settings = write_scenes(folder, **COUNTS)
    assert settings == json.loads((folder / 'settings.json').read_text())


def test_interrupted_writing_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    calls = []

    def interrupted(split, *args, **kwargs):
        calls.append(split)
        if split == 'test':
            raise KeyboardInterrupt
        return make_scenes(split, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(scene_files, 'make_scenes', interrupted)
        write_scenes(tmp_path / 'scenes', **COUNTS)
    assert calls == ['train', 'test']
    assert not (tmp_path / 'scenes').exists()
    write_scenes(tmp_path / 'scenes', **COUNTS)
    assert [path.name for path in tmp_path.iterdir()] == ['scenes']


def test_other_settings_replace_the_scenes(tmp_path):
    write_scenes(tmp_path / 'scenes', 3, 1)
    write_scenes(tmp_path / 'scenes', 2, 1)
    assert len(list((tmp_path / 'scenes' / 'train').iterdir())) == 2


def test_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / 'mine.txt').write_text('precious')
    with pytest.raises(ValueError, match='folder must '):
        write_scenes(tmp_path, **COUNTS)
    assert (tmp_path / 'mine.txt').read_text() == 'precious'


@pytest.mark.parametrize('field, value', [('num_train', 0), ('num_test', 1.5), ('seed', -1), ('num_train', True)])
def test_wrong_number_is_named(tmp_path, field, value):
    with pytest.raises(ValueError, match=f'{field} must .*{value}'):
        write_scenes(tmp_path / 'scenes', **{field: value})


def test_command_line(tmp_path, capsys):
    import cv2
    scene_files.main([str(tmp_path / 'scenes'), '--num-train', '2', '--num-test', '1', '--seed', '3'])
    assert 'num_train' in capsys.readouterr().out
    assert json.loads((tmp_path / 'scenes' / 'settings.json').read_text())['seed'] == 3
    scene_files.main([str(tmp_path / 'large'), '--num-train', '2', '--num-test', '1', '--size', '64', '--max-digits',
                      '1', '--sides', '44', '44'])
    [scene] = make_scenes('test', 1, size=64, max_digits=1, sides=(44, 44))
    assert content(tmp_path / 'large')['test/000000.png'] == cv2.imencode('.png', scene.image)[1].tobytes()
    assert scene.image.shape == (64, 64, 3) and len(scene.labels) == 1
    with pytest.raises(SystemExit) as error:
        scene_files.main([str(tmp_path / 'scenes'), '--num-train', '0'])
    assert error.value.code == 2
    assert 'num_train must be' in capsys.readouterr().err
