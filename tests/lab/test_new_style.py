"""Configs of the new style, whose types are classes and whose ``default_scope`` is None, in every command."""
from __future__ import annotations

import json

import pytest

pytest.importorskip('mmpretrain', reason='the config is one of mmpretrain')

CONFIG = '''from mmengine.config import read_base
from mmengine.dataset import default_collate
from mmengine.optim import OptimWrapper
from mmpretrain.engine import VisualizationHook

from mmafan.hooks import AdvFeatureHook, ResumableSeedHook
from mmafan.models import AFANImageClassifier

with read_base():
    from mmafan.configs.mmpretrain.resnet_afan_digits import *

default_scope = None
model.update(type=AFANImageClassifier)
optim_wrapper.update(type=OptimWrapper)
custom_hooks = [dict(type=AdvFeatureHook), dict(type=ResumableSeedHook)]
default_hooks.update(visualization=dict(type=VisualizationHook))
'''


@pytest.fixture(params=[False, True], ids=['afan', 'own'])
def path(request, tmp_path):
    file = tmp_path / 'new_style.py'
    file.write_text(CONFIG.replace('\nwith read_base', '\nfrom tests.lab.own_classifier import OwnClassifier\n\nwith '
                                   'read_base').replace('AFANImageClassifier)', 'OwnClassifier)')
                    if request.param else CONFIG)
    return str(file)


def test_the_scope_is_that_of_the_model(tools, path):
    assert tools('configs').load_config(path).default_scope == 'mmpretrain'


def test_mixed_precision_is_switched_on(tools, path):
    train = tools('train')
    cfg = tools('configs').load_config(path)
    train.apply_args(cfg, train.parse_args([path, '--amp']))
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper' and cfg.optim_wrapper.loss_scale == 'dynamic'
    assert len(cfg.custom_hooks) == 2  # the seed hook is there already
    tools('cpu').adapt_to_cpu(cfg)
    assert cfg.train_dataloader.collate_fn.type == 'default_collate'


def test_pictures_are_switched_on(tools, path, tmp_path):
    test = tools('test')
    cfg = tools('configs').load_config(path)
    test.use_visualization(cfg, test.parse_args([path, 'a.pth', '--show-dir', str(tmp_path)]))
    assert cfg.default_hooks.visualization.enable and cfg.default_hooks.visualization.out_dir == str(tmp_path)


def test_both_arms_of_a_comparison_are_built(tools, path, tmp_path):
    from mmengine.registry import MODELS, init_default_scope
    compare = tools('analyses.compare')
    study = compare.comparison(compare.parse_args([path]))
    init_default_scope('mmpretrain')
    for arm, has_afan in dict(baseline=False, afan=True).items():
        cfg = compare.run_config(study, arm, 0, str(tmp_path))
        assert hasattr(MODELS.build(cfg.model), 'afan') is has_afan
        assert len(cfg.custom_hooks) == 1 + has_afan


def test_the_cost_of_a_step_is_measured(tools, path, capsys):
    tools('analyses.step_cost').main([
        path, '--batch-size', '2', '--image-size', '8', '--repeats', '1', '--warmup', '1', '--num-batches', '1',
        '--device', 'cpu', '--synthetic', '--no-memory', '--no-published', '--json'])
    assert set(json.loads(capsys.readouterr().out)['seconds']) == {'baseline', 'afan'}
