"""The examples for one's own data train, resume, test and export, on small data that is drawn here."""
from __future__ import annotations

import importlib
import json
import shutil
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmafan.cli.main import main

pytestmark = pytest.mark.slow

CLASSES = ('cat', 'dog', 'horse')
COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 200))


def scene(random, number):
    """A noisy image with one rectangle in the colour of its class; the class and the box (x, y, width, height)."""
    image = random.randint(0, 60, (48, 56, 3)).astype(np.uint8)
    kind, x, y = number % 3, *random.randint(2, 20, 2)
    width, height = random.randint(16, 24, 2)
    image[y:y + height, x:x + width] = COLOURS[kind]
    return image, kind, [int(v) for v in (x, y, width, height)]


def write_folders(root, random):
    for split, count in (('train', 12), ('val', 6)):
        for number in range(count):
            image, kind, _ = scene(random, number)
            folder = root / 'images' / split / CLASSES[kind]
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f'{number}.jpg'), image)


def write_boxes(root, random):
    for split, count in (('train', 4), ('val', 2)):
        (root / 'boxes' / split).mkdir(parents=True)
        images, annotations = [], []
        for number in range(count):
            image, kind, box = scene(random, number)
            cv2.imwrite(str(root / 'boxes' / split / f'{number}.jpg'), image)
            images.append(dict(id=number, file_name=f'{number}.jpg', height=48, width=56))
            annotations.append(dict(id=number, image_id=number, category_id=kind + 1, bbox=box, iscrowd=0,
                                    area=box[2] * box[3]))
        categories = [dict(id=number + 1, name=name) for number, name in enumerate(CLASSES)]
        (root / 'boxes' / f'{split}.json').write_text(json.dumps(
            dict(images=images, annotations=annotations, categories=categories)))


def write_maps(root, random):
    for split, count in (('train', 8), ('val', 4)):
        for kind in ('images', 'labels'):
            (root / 'maps' / kind / split).mkdir(parents=True)
        for number in range(count):
            image, kind, (x, y, width, height) = scene(random, number)
            labels = np.zeros(image.shape[:2], np.uint8)
            labels[y:y + height, x:x + width] = 1 + kind % 2
            labels[0] = 255
            cv2.imwrite(str(root / 'maps' / 'images' / split / f'{number}.jpg'), image)
            cv2.imwrite(str(root / 'maps' / 'labels' / split / f'{number}.png'), labels)


LOADERS = ['randomness.seed=0', *(f'{split}_dataloader.num_workers=0' for split in ('train', 'val', 'test'))]
# What makes a task small enough for a test, beside the data: sizes, lengths, and no download. For each task: the
# codebase, who writes the data, options of all trainings, the length of the first and of the resumed one, its
# checkpoint and its metric.
TASKS = {
    'classification': ('mmpretrain', write_folders, [
        'model.backbone.init_cfg=None', 'custom_hooks.0.fit_threshold=1.0', 'train_dataloader.batch_size=4',
        'default_hooks.checkpoint.interval=1', 'default_hooks.logger.interval=1',
        *(f'{split}_dataloader.dataset.pipeline.{k}={v}' for split in ('train', 'val', 'test')
          for k, v in (('1.scale', 40), ('2.crop_size', 32)))],
        'train_cfg.max_epochs', 2, 3, 'epoch_3.pth', 'accuracy/top1'),
    'detection': ('mmdet', write_boxes, [
        'model.backbone.init_cfg=None', 'default_hooks.checkpoint.interval=1', 'default_hooks.logger.interval=1',
        'train_cfg.val_interval=1', 'param_scheduler.0.end=2', 'model.train_cfg.rcnn.sampler.num=32',
        'model.train_cfg.rpn_proposal.max_per_img=50', 'model.test_cfg.rpn.max_per_img=50',
        'model.test_cfg.rcnn.score_thr=0.0',
        'train_dataloader.dataset.pipeline.2.scale=(64,64)', 'val_dataloader.dataset.pipeline.1.scale=(64,64)',
        'test_dataloader.dataset.pipeline.1.scale=(64,64)'],
        'train_cfg.max_epochs', 1, 2, 'epoch_2.pth', 'coco/bbox_mAP'),
    'segmentation': ('mmseg', write_maps, [
        'model.pretrained=None', 'model.data_preprocessor.size=(32,32)', 'default_hooks.checkpoint.interval=1',
        'default_hooks.logger.interval=1', 'train_cfg.val_interval=2', 'train_dataloader.batch_size=2',
        'train_dataloader.dataset.pipeline.2.scale=(56,48)', 'train_dataloader.dataset.pipeline.3.crop_size=(32,32)'],
        'train_cfg.max_iters', 2, 4, 'iter_4.pth', 'mIoU'),
}


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Run ``mmafan`` in the folder of the project."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setattr(sys, 'argv', list(sys.argv))
    return lambda *argv: main(list(map(str, argv)))


def scalars(work_dir):
    lines = [line for path in sorted(work_dir.glob('*/**/*.json')) for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines if line.startswith('{')]


@pytest.mark.parametrize('task', TASKS)
def test_example_trains_resumes_tests_and_exports(task, tmp_path, repo, command):
    codebase, write, options, length, first, whole, checkpoint, metric = TASKS[task]
    importlib.import_module(pytest.importorskip(codebase, reason=f'{codebase} is not installed').__name__)
    config = tmp_path / f'{task}.py'
    shutil.copy(repo / 'examples' / 'own_data' / f'{task}.py', config)
    write(tmp_path / 'data', np.random.RandomState(0))
    work_dir = tmp_path / 'work'
    # mmengine keeps one visualizer for each name, with the folder of its first run in this process.
    options = [*LOADERS, f'visualizer.name={tmp_path.name}', *options]
    command('train', config, '--work-dir', work_dir, '--cfg-options', *options, f'{length}={first}')
    assert any(key.startswith('adv_') for line in scalars(work_dir) for key in line), 'A-FAN has not run'
    command('train', config, '--work-dir', work_dir, '--resume', '--cfg-options', *options, f'{length}={whole}')
    assert (work_dir / checkpoint).is_file()
    command('test', config, work_dir / checkpoint, '--work-dir', tmp_path / 'test', '--cfg-options', *options)
    assert any(metric in line for line in scalars(tmp_path / 'test'))
    command('export', config, work_dir / checkpoint, '-o', tmp_path / 'exported')
    [weights] = (tmp_path / 'exported').glob(f'{task}-*.pth')
    stock = tmp_path / 'exported' / f'{task}.py'
    assert 'mmafan' not in stock.read_text()
    from mmengine.registry import MODELS, init_default_scope
    cfg = Config.fromfile(str(stock))
    init_default_scope(codebase)
    model = MODELS.build(dict(cfg.model, **({'data_preprocessor': cfg.data_preprocessor}
                                            if 'data_preprocessor' not in cfg.model else {})))
    found = torch.load(weights, map_location='cpu')
    model.load_state_dict(found['state_dict'], strict=True)
    classes = found['meta']['dataset_meta']['classes']
    assert tuple(classes) == (CLASSES if task != 'segmentation' else ('background', 'cat', 'dog'))


@pytest.mark.parametrize('task', TASKS)
def test_page_and_config_say_the_same(task, repo):
    """The page of a task shows the folders and the commands of its config."""
    text = (repo / 'examples' / 'own_data' / f'{task}.py').read_text()
    page = (repo / 'docs' / f'own_data_{task}.md').read_text()
    [root] = [line.split("'")[1] for line in text.splitlines() if line.startswith('data_root')]
    assert root in page and f'mmafan train {task}.py' in page and f'mmafan export {task}.py' in page
