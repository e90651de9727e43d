"""The segmentation demo with few scenes: from nothing to the report, and that a killed run goes on."""
from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch

pytest.importorskip('mmcv.ops', reason='mmseg imports its operators')
pytest.importorskip('mmseg', reason='the demo trains a model of mmseg')
pytest.importorskip('sklearn', reason='the scenes are made of its digits')
pytest.importorskip('matplotlib', reason='the report has pictures')


@pytest.fixture
def task(tools, tmp_path, monkeypatch):
    """The demo on 16 scenes, in a folder of its own."""
    from mmafan.datasets.scene_files import write_scenes
    monkeypatch.chdir(tmp_path)
    module = tools('quickstart.segmentation')
    scenes = dict(module.SCENES, num_train=16, num_test=8)
    return dataclasses.replace(module.TASK, prepare=lambda: write_scenes(**scenes), cost_repeats=2)


@pytest.fixture
def config(tools, repo):
    """The config of the baseline."""
    from mmengine.config import Config
    return Config.fromfile(str(repo / tools('quickstart.segmentation').TASK.arms['baseline'].config))


def test_demo_writes_the_scenes_that_the_configs_read(tools, config, tmp_path, monkeypatch):
    from mmseg.registry import DATASETS
    from mmseg.utils import register_all_modules
    monkeypatch.chdir(tmp_path)
    module = tools('quickstart.segmentation')
    settings = module.prepare()
    assert settings == json.loads((tmp_path / module.SCENES['folder'] / 'settings.json').read_text())
    counts = f"on {settings['num_train']} training and {settings['num_test']} test scenes"
    assert f"{counts} of {settings['size']} x {settings['size']} pixels" in ' '.join(module.TASK.setting.split())
    assert config.image_size == (settings['size'], settings['size'])
    register_all_modules(init_default_scope=True)
    for loader, name in ((config.train_dataloader, 'num_train'), (config.val_dataloader, 'num_test')):
        dataset = DATASETS.build(loader.dataset)
        assert len(dataset) == settings[name]
        assert len(dataset.metainfo['classes']) == config.model.decode_head.num_classes == 11
        labels = set().union(*(np.unique(dataset[i]['data_samples'].gt_sem_seg.data) for i in range(50)))
        assert labels == set(range(11))


def test_missing_operators_are_one_sentence(tools, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, 'mmcv.ops', None)
    with pytest.raises(SystemExit) as error:
        tools('quickstart.segmentation').prepare()
    assert error.value.code == 2
    assert 'bash tools/setup_env.sh' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_demo_has_the_default_recipe(tools, repo):
    from mmengine.config import Config
    demo = Config.fromfile(str(repo / tools('quickstart.segmentation').TASK.arms['afan'].config))
    default = Config.fromfile(str(repo / 'configs/_base_/afan_segmentation.py'))
    assert demo.model.afan.to_dict() == default.afan_recipe.to_dict()
    assert demo.custom_hooks == default.custom_hooks


def test_classes_have_their_colours(tools):
    module = tools('quickstart.segmentation')
    image = torch.zeros(3, 2, 3, dtype=torch.uint8)
    image[0] = 200  # blue
    classes = torch.tensor([[0, 1, 1], [0, 0, 10]])
    picture = module.overlay(image, classes)
    assert (picture.shape, picture.dtype) == ((8, 12, 3), np.uint8)
    first, last = (np.round(0.4 * np.array([0, 0, 200]) + 0.6 * np.array(module.PALETTE[digit])) for digit in (0, 9))
    expected = np.array([[[0, 0, 200], first, first], [[0, 0, 200], [0, 0, 200], last]])
    np.testing.assert_array_equal(picture, expected.repeat(4, axis=0).repeat(4, axis=1))
    assert image[0].eq(200).all() and not image[1:].any()


def test_legend_names_every_digit(tools):
    from matplotlib.colors import to_rgb

    from mmafan.visualization import draw_image_grid
    module = tools('quickstart.segmentation')
    figure = draw_image_grid(dict(a=[np.zeros((8, 8, 3), np.uint8)]))
    module.add_legend(figure)
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list('0123456789')
    for patch, colour in zip(legend.get_patches(), module.PALETTE):
        assert to_rgb(patch.get_facecolor()) == pytest.approx([value / 255 for value in colour])


@pytest.mark.slow
def test_whole_demo(quickstart, task, tmp_path, read_row, check_cost):
    folder = tmp_path / 'demo'
    text = quickstart.run_demo(task, str(folder), seeds=1, epochs=1)
    for arm in ('baseline', 'A-FAN'):
        assert all(0 < float(cell) <= 100 for cell in read_row(text, f'{arm} | 1 ')[2:4])
    check_cost(text)
    for picture in ('curves.png', 'label_maps.png'):
        assert f']({picture})' in text
        assert (folder / picture).read_bytes()[:4] == b'\x89PNG'
    [log] = folder.glob('afan/seed_0/*/vis_data/scalars.json')
    assert {'adv_backbone_0.decode.loss_ce', 'adv_aspp_0.decode.loss_ce'} <= {
        key for line in log.read_text().splitlines() for key in json.loads(line)}
    stored = json.loads((folder / 'afan' / 'seed_0' / 'result.json').read_text())
    assert stored['metrics']['mIoU'] == pytest.approx(float(read_row(text, 'A-FAN | 1 ')[2]), abs=0.01)


@pytest.mark.slow
def test_arms_start_alike_and_a_killed_run_goes_on(check_arms_and_resume, task):
    check_arms_and_resume(task)
