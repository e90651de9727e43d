"""The detection demo with few scenes: from nothing to the report, and that a killed run goes on."""
from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch

pytest.importorskip('mmcv.ops', reason='detectors use its operators')
pytest.importorskip('mmdet', reason='the demo trains a model of mmdet')
pytest.importorskip('sklearn', reason='the scenes are made of its digits')
pytest.importorskip('matplotlib', reason='the report has pictures')


@pytest.fixture
def task(tools, tmp_path, monkeypatch):
    """The demo on 16 scenes, in a folder of its own."""
    from mmafan.datasets.scene_files import write_scenes
    monkeypatch.chdir(tmp_path)
    return dataclasses.replace(
        tools('quickstart.detection').TASK, prepare=lambda: write_scenes(num_train=16, num_test=8), cost_repeats=2)


def test_demo_writes_the_scenes_that_the_configs_read(tools, repo, tmp_path, monkeypatch):
    from mmengine.config import Config
    monkeypatch.chdir(tmp_path)
    module = tools('quickstart.detection')
    settings = module.prepare()
    assert settings == json.loads((tmp_path / 'data/digit_scenes/settings.json').read_text())
    counts = f"on {settings['num_train']} training and {settings['num_test']} test scenes"
    assert counts in ' '.join(module.TASK.setting.split())
    cfg = Config.fromfile(str(repo / module.TASK.arms['baseline'].config))
    for loader, count in ((cfg.train_dataloader, settings['num_train']), (cfg.val_dataloader, settings['num_test'])):
        annotations = tmp_path / loader.dataset.data_root / loader.dataset.ann_file
        assert len(json.loads(annotations.read_text())['images']) == count


def test_missing_operators_are_one_sentence(tools, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, 'mmcv.ops', None)
    with pytest.raises(SystemExit) as error:
        tools('quickstart.detection').prepare()
    assert error.value.code == 2
    assert 'bash tools/setup_env.sh' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_boxes_are_drawn_where_they_are(tools):
    from mmdet.visualization import DetLocalVisualizer
    from mmengine.structures import InstanceData
    module = tools('quickstart.detection')
    visualizer = DetLocalVisualizer(line_width=2, alpha=1)
    visualizer.dataset_meta = dict(classes=tuple('0123456789'))
    instances = InstanceData(bboxes=torch.tensor([[8.0, 8.0, 20.0, 24.0]]), labels=torch.tensor([3]))
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[0] = 200  # blue
    picture = module.draw_instances(visualizer, image, instances)
    assert picture.shape == (128, 128, 3)
    assert picture[2, 2].tolist() == [0, 0, 200]
    rows, columns = np.nonzero((picture != [0, 0, 200]).any(2))
    assert (abs(rows.min() - 32), abs(rows.max() - 96)) <= (3, 3)
    assert (abs(columns.min() - 32), abs(columns.max() - 80)) <= (3, 3)
    assert instances.bboxes.tolist() == [[8.0, 8.0, 20.0, 24.0]]


@pytest.mark.slow
def test_whole_demo(quickstart, task, tmp_path, read_row, check_cost):
    folder = tmp_path / 'demo'
    text = quickstart.run_demo(task, str(folder), seeds=1, epochs=1)
    for arm in ('baseline', 'A-FAN'):
        assert all(0 <= float(cell) <= 100 for cell in read_row(text, f'{arm} | 1 ')[2:4])
    check_cost(text)
    for picture in ('curves.png', 'boxes.png'):
        assert f']({picture})' in text
        assert (folder / picture).read_bytes()[:4] == b'\x89PNG'
    [log] = folder.glob('afan/seed_0/*/vis_data/scalars.json')
    assert {'adv_backbone_0.loss_rpn_cls', 'adv_backbone_0.loss_cls', 'adv_roi_0.loss_bbox'} <= {
        key for line in log.read_text().splitlines() for key in json.loads(line)}
    stored = json.loads((folder / 'afan' / 'seed_0' / 'result.json').read_text())
    assert {'coco/bbox_mAP', 'coco/bbox_mAP_50'} <= set(stored['metrics'])


@pytest.mark.slow
def test_arms_start_alike_and_a_killed_run_goes_on(check_arms_and_resume, task):
    check_arms_and_resume(task)
