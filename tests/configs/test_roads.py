"""Every shipped config means the same by every road: as a file, through ``mmafan::`` and through ``read_base``."""
from __future__ import annotations

import importlib
import os.path as osp

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, MODELS, DefaultScope

from mmafan.configs import CONFIGS, FOLDER, config_paths, module_path
from mmafan.configs.__main__ import TEXT

CODEBASES = ('mmpretrain', 'mmdet', 'mmseg')
WHOLE = [path for path in config_paths() if path.split('/')[0] in CODEBASES]
ROADS = {
    'name': "_base_ = 'mmafan::{config}'\n",
    'path': "_base_ = {path!r}\n",
    'read_base': ('from mmengine.config import read_base\nwith read_base():\n'
                  '    from mmafan.configs.{module} import *\n'),
}


def by_road(road, config, folder):
    """Read a child of a config that changes nothing."""
    child = folder / f'{road}.py'
    child.write_text(ROADS[road].format(config=config, path=osp.relpath(osp.join(CONFIGS, config), folder),
                                        module=module_path(config)[:-3].replace('/', '.')))
    return Config.fromfile(str(child))


def without_scopes(value):
    """Copy a config with plain dicts and without ``_scope_``."""
    if isinstance(value, dict):
        return {k: without_scopes(v) for k, v in value.items() if k != '_scope_'}
    return type(value)(map(without_scopes, value)) if isinstance(value, (list, tuple)) else value


def name_of(thing):
    return f'{type(thing).__module__}.{type(thing).__name__}'


def parts(value):
    """Names of the classes of a built data set or transform, and of what it holds of such."""
    found = [name_of(value)]
    for key in ('dataset', 'datasets', 'pipeline', 'transforms'):
        inner = getattr(value, key, None)
        for item in inner if isinstance(inner, (list, tuple)) else [inner]:
            if hasattr(item, '__call__') or hasattr(item, '__getitem__'):
                found += parts(item)
    return found


def lazy(dataset, folder):
    """Ask a data set and those it holds not to read their files; one that looks for them finds empty ones."""
    for key in ('dataset', 'datasets'):
        inner = dataset.get(key)
        for item in inner if isinstance(inner, (list, tuple)) else [inner]:
            if isinstance(item, dict):
                lazy(item, folder)
    if 'Digit' not in dataset['type']:
        dataset['lazy_init'] = True
    if dataset['type'].endswith('PascalVOCDataset'):
        dataset['data_root'] = str(folder)
        (folder / dataset['data_prefix']['img_path']).mkdir(parents=True, exist_ok=True)
        (folder / dataset['ann_file']).parent.mkdir(parents=True, exist_ok=True)
        (folder / dataset['ann_file']).touch()
    return dataset


def classes(cfg, folder):
    """Build every data set with its pipeline, find every metric and model; return the names of the classes."""
    found = {}
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            found[split] = parts(DATASETS.build(lazy(loader.dataset, folder)))
        evaluators = cfg.get(f'{split}_evaluator') or []
        for metric in evaluators if isinstance(evaluators, list) else [evaluators]:
            with DefaultScope.overwrite_default_scope(metric.get('_scope_')):
                scope = DefaultScope.get_current_instance().scope_name
                found.setdefault(f'{split} metrics', []).append(
                    importlib.import_module(f'{scope}.registry').METRICS.get(metric.type)
                    if scope != 'mmengine' else METRICS.get(metric.type))
    found['model'] = MODELS.get(cfg.model.type)
    return found


# One of each codebase runs always: those whose transforms mmcv has, too.
ALWAYS = ('mmpretrain/resnet_afan_digits.py', 'mmdet/faster_rcnn_r18_fpn_afan_bccd.py',
          'mmseg/deeplabv3plus_r18-d8_afan_nuclei-96x96.py')


@pytest.mark.parametrize('config', [c if c in ALWAYS else pytest.param(c, marks=pytest.mark.slow) for c in WHOLE])
def test_every_road_builds_the_same_classes(config, tmp_path):
    codebase = config.split('/')[0]
    pytest.importorskip(f'{codebase}.datasets', reason=f'{codebase} is not installed')
    direct = Config.fromfile(osp.join(CONFIGS, config))
    assert direct.default_scope == codebase
    read = {road: by_road(road, config, tmp_path) for road in ROADS}
    for road, cfg in read.items():
        assert without_scopes(cfg.to_dict()) == without_scopes(direct.to_dict()), road
    with DefaultScope.overwrite_default_scope(codebase):
        expected = classes(direct, tmp_path)
        own = next(name for name in expected['train'] if not name.startswith('mmengine.'))  # what a wrapper holds
        assert own.split('.')[0] in (codebase, 'mmafan')
        for road, cfg in read.items():
            assert classes(cfg, tmp_path) == expected, road


def test_every_config_has_its_new_style_file():
    assert len(WHOLE) > 50
    for config in config_paths():
        path = osp.join(FOLDER, module_path(config))
        assert osp.isfile(path), f'{path} is missing: run python -m mmafan.configs'
        with open(path) as file:
            assert file.read() == TEXT


def test_child_overrides_one_field_by_both_roads(tmp_path):
    pytest.importorskip('mmpretrain', reason='the config inherits one of mmpretrain')
    config = 'mmpretrain/resnet18_afan_cifar10.py'
    for road, change in dict(name='model = dict(afan=dict(taps=dict(backbone=dict(step_size=0.3))))\n',
                             read_base="model['afan']['taps']['backbone'].update(step_size=0.3)\n").items():
        child = tmp_path / f'{road}.py'
        child.write_text(ROADS[road].format(config=config, module=module_path(config)[:-3].replace('/', '.')) + change)
        tap = Config.fromfile(str(child)).model.afan.taps.backbone
        assert (tap.step_size, tap.module) == (0.3, 'backbone.layer2'), road


def test_recipe_for_a_new_style_config(tmp_path):
    """A config of the codebase's own new style takes hook and recipe of a base."""
    child = tmp_path / 'child.py'
    child.write_text('from mmengine.config import read_base\nwith read_base():\n'
                     '    from mmafan.configs._base_.afan_backbone import *\n'
                     "model = dict(type='mmafan.AFANImageClassifier', afan=afan_recipe)\n")
    cfg = Config.fromfile(str(child))
    assert cfg.custom_hooks[0].type == 'mmafan.AdvFeatureHook' and 'backbone' in cfg.model.afan.taps
    cfg.dump(str(tmp_path / 'dumped.py'))
    assert Config.fromfile(str(tmp_path / 'dumped.py')).model == cfg.model
