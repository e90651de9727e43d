"""The command draws features of a classifier, a detector and a segmentor, and says how large they are."""
from __future__ import annotations

import importlib
import json

import pytest
import torch

CONFIGS = dict(mmpretrain='configs/mmpretrain/resnet_afan_digits.py', mmdet='configs/mmdet/faster_rcnn_afan_digits.py',
               mmseg='configs/mmseg/deeplabv3plus_afan_digits.py')


@pytest.fixture
def tool(repo, monkeypatch):
    return importlib.import_module('mmafan.lab.analyses.feature_pictures')


def command(repo, tmp_path, codebase, *more):
    """Return a command line for the demo of a codebase, with weights of seed 0 and two images."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope
    config = str(repo / CONFIGS[codebase])
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta={}), tmp_path / 'weights.pth')
    options = []
    if codebase != 'mmpretrain':
        from mmafan.datasets.scene_files import write_scenes
        write_scenes(tmp_path / 'data', num_train=1, num_test=2, size=64, max_digits=1, sides=(24, 44))
        options = ['--cfg-options', f'val_dataloader.dataset.data_root={tmp_path}/data/']
    return [config, str(tmp_path / 'weights.pth'), '--num-images', '2', '--out', str(tmp_path / 'features.png'), *more,
            *options]


# The first tap of each config: layer1, layer2 and layer3 of a network with 16 base channels.
@pytest.mark.parametrize('codebase, channels, step_size', [
    ('mmpretrain', 16, 0.2),
    ('mmdet', 32, 0.1),
    ('mmseg', 64, 0.03),
])
def test_picture_and_sizes(tool, repo, tmp_path, capsys, codebase, channels, step_size):
    pytest.importorskip(codebase, reason='the config is for that codebase')
    pytest.importorskip('sklearn', reason='the images are part of scikit-learn')
    import cv2
    tool.main(command(repo, tmp_path, codebase, '--strengths', '0.5', '1', '--json'))
    result = json.loads(capsys.readouterr().out)
    sizes = result['relative_size']
    assert list(sizes) == ['clean', 'perturbed 0.5', 'perturbed 1', 're-injected 0.5', 're-injected 1']
    assert result['shape'][:2] == [2, channels]
    assert sizes['clean'] == 0 and sizes['perturbed 0.5'] == pytest.approx(sizes['perturbed 1'] / 2, rel=1e-4)
    # A sign step moves every value that has a gradient by step_size deviations of its sample.
    assert 0.5 * step_size < sizes['perturbed 1'] < 1.1 * step_size
    assert 0 < sizes['re-injected 1'] != sizes['perturbed 1']
    picture = cv2.imread(str(tmp_path / 'features.png'))
    assert picture.shape[0] > 600 and picture.std() > 10


@pytest.mark.parametrize('more, sentence', [
    (['--tap', 'roi'], "--tap must be one of the taps in the config, stage1, got 'roi'"),
    (['--strengths', '1.5'], '--strengths must lie in (0, 1], got 1.5'),
    (['--cfg-options', 'model.afan.taps.stage1.module=neck'],
     "--tap must name a tap whose feature is a map (N, C, H, W), got 'stage1' at 'neck' with (2, 128)"),
])
def test_wrong_arguments_are_one_sentence(tool, repo, tmp_path, capsys, more, sentence):
    pytest.importorskip('mmpretrain', reason='the config is for mmpretrain')
    pytest.importorskip('sklearn', reason='the images are part of scikit-learn')
    with pytest.raises(SystemExit):
        tool.main(command(repo, tmp_path, 'mmpretrain', *more))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error')]
    assert len(lines) == 1 and sentence in lines[0]
    assert not (tmp_path / 'features.png').exists()


def test_stock_model_is_refused(tool, repo, tmp_path, capsys):
    pytest.importorskip('mmpretrain', reason='the config is for mmpretrain')
    arguments = command(repo, tmp_path, 'mmpretrain')
    with pytest.raises(SystemExit):
        tool.main([arguments[0].replace('_afan', ''), *arguments[1:]])
    assert "model.type must be 'mmafan.AFAN<Stock>' with afan=dict(taps=...), got 'ImageClassifier'" in (
        capsys.readouterr().err)
