"""``mmafan init``: the config it writes loads, is explained, and puts the taps where the shipped configs have them."""
from __future__ import annotations

import ast
import copy
import importlib
import math
import os.path as osp

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper

from mmafan.cli.configs import build_model, read_config, stock_model, synthetic_batches
from mmafan.cli.explain import ABOUT, explain_recipe
from mmafan.cli.init_command import base_of, write
from mmafan.cli.main import main
from mmafan.cli.recipes import recipe_names
from mmafan.cli.taps_command import search
from mmafan.config import AFANConfig
from mmafan.registry import HOOKS


def init(capsys, config, out, *options):
    main(['init', str(config), '-o', str(out), *options])
    return capsys.readouterr().out


def needs(codebase):
    pytest.importorskip(f'{codebase}.models', reason=f'{codebase} is not installed')
    return importlib.import_module(codebase)


def check_explained(text):
    """Every line that sets something has a comment above it."""
    lines = text.splitlines()
    assert max(map(len, lines)) <= 120
    for number, line in enumerate(lines):
        if '=' in line and not line.strip().startswith('#'):
            assert lines[number - 1].strip().startswith('#'), line


def test_written_config_inherits_and_is_explained(tmp_path, capsys):
    needs('mmpretrain')
    out = tmp_path / 'mine.py'
    said = init(capsys, 'mmpretrain::resnet/resnet18_8xb16_cifar10.py', out)
    assert 'AFANImageClassifier' in said and 'backbone at backbone.layer2' in said
    cfg = Config.fromfile(str(out))
    config = AFANConfig.from_dict(cfg.model.afan)
    assert cfg.model.type == 'mmafan.AFANImageClassifier' and cfg.model.backbone.depth == 18
    assert cfg.custom_hooks[-1].type == 'mmafan.AdvFeatureHook' and cfg.custom_imports.imports == ['mmafan']
    check_explained(out.read_text())
    assert config.taps['backbone'].module == 'backbone.layer2'


def test_hooks_and_imports_of_the_stock_config_stay(tmp_path, capsys):
    needs('mmpretrain')
    stock = tmp_path / 'stock.py'
    stock.write_text("_base_ = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'\n"
                     "custom_hooks = [dict(type='EMAHook', momentum=0.1)]\n"
                     "custom_imports = dict(imports=['json'], allow_failed_imports=False)\n")
    (tmp_path / 'sub').mkdir()
    init(capsys, stock, tmp_path / 'sub' / 'mine.py')
    cfg = Config.fromfile(str(tmp_path / 'sub' / 'mine.py'))
    assert [hook.type for hook in cfg.custom_hooks] == ['EMAHook', 'mmafan.AdvFeatureHook']
    assert cfg.custom_imports.imports == ['json', 'mmafan']
    assert "_base_ = ['../stock.py']" in (tmp_path / 'sub' / 'mine.py').read_text()


# Where the shipped configs have their taps.
PLACES = [
    ('mmpretrain::convnext/convnext-tiny_32xb128_in1k.py', dict(backbone='backbone.stages.1')),
    ('mmpretrain::efficientnet/efficientnet-b0_8xb32_in1k.py', dict(backbone='backbone.layers.3')),
    ('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
     dict(backbone='backbone.layer2', roi='roi_head.bbox_head.shared_fcs.1')),
    ('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', dict(backbone='backbone.stage2')),
    ('mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', dict(backbone='backbone.layers.1.2')),
    ('mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
     dict(backbone='backbone.stages.1.blocks.1')),
    ('mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-20k_voc12aug-512x512.py',
     dict(backbone='backbone.layer3', aspp='decode_head.bottleneck')),
]


@pytest.mark.slow
@pytest.mark.parametrize('config, places', PLACES, ids=[config.rpartition('/')[2][:20] for config, _ in PLACES])
def test_taps_are_where_the_shipped_configs_have_them(config, places, tmp_path, capsys):
    needs(config.split('::')[0])
    said = init(capsys, config, tmp_path / 'mine.py')
    for name, module in places.items():
        assert f'{name} at {module}' in said


def step(path):
    """Train a written config on random images until every tap took part; return the hook, the taps and the log.

    A recipe that attacks a share of the samples sits some steps out.
    """
    cfg = read_config(str(path))
    model_cfg, afan = stock_model(cfg)
    batch = synthetic_batches(cfg, 1, 4, 64)[0]
    model_cfg.update(type=cfg.model.type, afan=afan, data_preprocessor=cfg.model.get('data_preprocessor')
                     or cfg.get('data_preprocessor'))
    torch.manual_seed(0)
    model = build_model(cfg, model_cfg)
    model.train()
    trained = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    optimizer, logs = OptimWrapper(torch.optim.SGD(model.parameters(), 1e-3)), {}
    for number in range(8):
        model.afan.controls.iteration = number
        logs.update(model.train_step(copy.deepcopy(batch), optimizer))
        if all(any(key.startswith(f'adv_{tap}_') for key in logs) for tap in afan['taps']):
            break
    assert any(not torch.equal(trained[name], value) for name, value in model.named_parameters() if name in trained)
    return HOOKS.build(cfg.custom_hooks[-1]), model.afan.config, logs


STEPPED = {
    'mmpretrain': 'mmpretrain::resnet/resnet18_8xb16_cifar10.py',
    'mmdet': 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
    'mmseg': 'mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-769x769.py',
}


@pytest.mark.slow
@pytest.mark.parametrize('codebase', STEPPED)
def test_every_recipe_is_explained_and_takes_a_step(codebase, tmp_path):
    needs(codebase)
    found = search(read_config(STEPPED[codebase]), image_size=64, repeats=1)
    for name in recipe_names(codebase):
        out = tmp_path / f'{name}.py'
        out.write_text(write(found, STEPPED[codebase], name, str(out)))
        check_explained(out.read_text())
        hook, config, logs = step(out)
        assert (hook.fit is not None) == (name == 'small-data')
        for tap, fields in config.taps.items():
            terms = [float(value) for key, value in logs.items() if key.startswith(f'adv_{tap}_')]
            assert terms and all(map(math.isfinite, terms)), (name, tap)
            assert fields.module.startswith(('backbone.layer', 'decode_head')) or name in ('small-data', 'noisy-labels')
        if name in ('small-data', 'noisy-labels') and codebase != 'mmdet':  # whose stock stem is frozen
            assert config.taps['backbone'].module in ('backbone.relu', 'backbone.stem')


@pytest.mark.slow
@pytest.mark.parametrize('name', ['retinanet_r50_fpn_1x_coco', 'rtmdet_tiny_8xb32-300e_coco'])
def test_detector_without_a_roi_head_gets_the_fields_of_its_shipped_config(name, tmp_path, capsys, repo):
    needs('mmdet')
    out = tmp_path / 'mine.py'
    init(capsys, f'mmdet::{name.split("_")[0]}/{name}.py', out)
    [shipped] = (repo / 'configs' / 'mmdet').glob(f'{name.split("_")[0]}_*_afan_coco.py')
    mine, theirs = Config.fromfile(str(out)).model.afan, Config.fromfile(str(shipped)).model.afan
    assert AFANConfig.from_dict(mine) == AFANConfig.from_dict(theirs)


@pytest.mark.slow
def test_new_style_config_gets_a_new_style_child(tmp_path, capsys):
    needs('mmdet')
    import mmdet
    stock = f'{mmdet.__path__[0]}/configs/retinanet/retinanet_r50_fpn_1x_coco.py'
    if not osp.exists(stock):
        pytest.skip('this build of mmdet comes without new-style configs')
    init(capsys, stock, tmp_path / 'mine.py')
    text = (tmp_path / 'mine.py').read_text()
    assert 'from mmdet.configs.retinanet.retinanet_r50_fpn_1x_coco import *' in text
    assert Config.fromfile(str(tmp_path / 'mine.py')).model.afan.taps.backbone.module == 'backbone.layer2'


def error_of(capsys, *argv):
    with pytest.raises(SystemExit) as error:
        main(list(map(str, argv)))
    assert error.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_refusals_are_sentences(tmp_path, capsys, repo):
    needs('mmpretrain')
    afan = repo / 'configs' / 'mmpretrain' / 'resnet_afan_digits.py'
    assert 'has A-FAN already' in error_of(capsys, 'init', afan, '-o', tmp_path / 'o.py')
    assert 'there is no config file' in error_of(capsys, 'init', tmp_path / 'no.py', '-o', tmp_path / 'o.py')
    assert 'is a base of other configs' in error_of(
        capsys, 'init', repo / 'configs' / '_base_' / 'runtime.py', '-o', tmp_path / 'o.py')
    (tmp_path / 'o.py').write_text('')
    stock = repo / 'configs' / 'mmpretrain' / 'resnet_digits.py'
    assert '--force' in error_of(capsys, 'init', stock, '-o', tmp_path / 'o.py')
    assert 'must name a .py file' in error_of(capsys, 'init', stock, '-o', tmp_path / 'o.txt')
    assert "invalid choice: 'economi'" in error_of(
        capsys, 'init', stock, '-o', tmp_path / 'p.py', '--recipe', 'economi')


def test_stock_config_is_named_by_its_package_where_it_is_in_one():
    assert base_of('mmdet::a/b.py', 'x/out.py') == 'mmdet::a/b.py'
    assert base_of('/env/mmdet/.mim/configs/a/b.py', '/home/out.py') == 'mmdet::a/b.py'
    assert base_of('/home/configs/b.py', '/home/mine/out.py') == '../configs/b.py'


def test_explanation_writes_every_field_back():
    recipe = dict(taps=dict(a=dict(module='backbone.layer2', step_size=0.1 / 255, strengths=[0.5, 1.0],
                                   reinject=(False, True), losses=('loss_cls', ))), clean_weight=0.5)
    text = explain_recipe(recipe, {'backbone.layer2': 0.625})
    assert 'about 62% of a step' in text and '0.1 / 255' in text
    value = eval(f'dict(\n{text}')['afan']
    value['taps']['a']['strengths'] = list(value['taps']['a']['strengths'])
    assert value == recipe
    ast.parse(f'model = dict(\n{text}')


def test_every_field_of_a_tap_is_explained():
    from dataclasses import fields

    from mmafan.config import TapConfig
    unexplained = {f.name for f in fields(TapConfig)} - set(ABOUT)
    assert unexplained <= {'where', 'clamp', 'num_groups', 'channel_dim', 'direction', 'detach'}, unexplained
