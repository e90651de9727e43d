"""The command: the config's own metric on corrupted images, checkpoints side by side, and what is wrong."""
from __future__ import annotations

import importlib
import json

import pytest
import torch

pytest.importorskip('mmpretrain', reason='the configs tested here are for classification')
pytest.importorskip('sklearn', reason='the images are part of scikit-learn')
pytest.importorskip('imagecorruptions', reason='the corruptions are those of imagecorruptions-imaug')

CONFIG = 'configs/mmpretrain/resnet_afan_digits.py'
LARGE = ['val_dataloader.dataset.image_size=32', 'test_dataloader.dataset.image_size=32']


@pytest.fixture
def tool():
    return importlib.import_module('mmafan.lab.analyses.robustness')


@pytest.fixture
def checkpoints(repo, tmp_path):
    """Weights of two seeds."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope
    init_default_scope('mmpretrain')
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = MODELS.build(Config.fromfile(str(repo / CONFIG)).model)
        torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / f'{seed}.pth')
    return [f'one={tmp_path}/0.pth', f'two={tmp_path}/1.pth']


def accuracy_by_hand(repo, checkpoint, corruption, severity):
    """The images of the data set, corrupted one by one, through the stock model."""
    import numpy as np
    from mmengine.config import Config
    from mmengine.registry import MODELS

    from mmafan.analysis.corruptions import CorruptImage
    from mmafan.datasets import DigitsDataset
    cfg = Config.fromfile(str(repo / CONFIG.replace('_afan', '')))
    model = MODELS.build(cfg.model).eval()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)['state_dict'])
    corrupt = CorruptImage(corruption, severity)
    data = DigitsDataset('test', 32, indices=25)
    images = np.stack([corrupt(dict(img=data[k]['img'], sample_idx=k))['img'] for k in range(25)])
    with torch.no_grad():
        found = model(torch.from_numpy((images.transpose(0, 3, 1, 2) - 78.0) / 96.0).float(), mode='tensor').argmax(1)
    return 100 * sum(int(p) == data[k]['gt_label'] for k, p in enumerate(found)) / 25


@pytest.mark.slow
def test_metric_of_the_config_on_corrupted_images(tool, repo, checkpoints, tmp_path, capsys):
    tool.main([str(repo / CONFIG), *checkpoints, '--no-pgd', '--corruptions', 'gaussian_noise', '--severities',
               '5', '--out', str(tmp_path / 'r.png'), '--work-dir', str(tmp_path / 'work'), '--json',
               '--cfg-options', *LARGE, 'test_dataloader.dataset.indices=25'])
    result = json.loads(capsys.readouterr().out)
    found = result['corruptions']
    assert found['metric'] == 'accuracy/top1' and found['skipped'] == {} and 'pgd' not in result
    for label, file in zip(('one', 'two'), checkpoints):
        expected = accuracy_by_hand(repo, file.partition('=')[2], 'gaussian_noise', 5)
        assert found['checkpoints'][label]['values']['gaussian_noise']['5'] == pytest.approx(expected, abs=1e-3)
    assert len({found['checkpoints'][label]['clean'] for label in ('one', 'two')}) == 2
    assert (tmp_path / 'r.png').read_bytes()[:4] == b'\x89PNG'


def test_small_images_are_skipped_with_a_reason(tool, repo, checkpoints, tmp_path, capsys):
    pytest.importorskip('art', reason='the attack is that of the adversarial-robustness-toolbox')
    tool.main([str(repo / CONFIG), checkpoints[0], '--pgd-radii', '0', '--pgd-steps', '1', '--num-batches', '1',
               '--batch-size', '20', '--corruptions', 'blur', '--out', str(tmp_path / 'r.png'), '--work-dir',
               str(tmp_path / 'work')])
    lines = capsys.readouterr().out.splitlines()
    skipped = [line for line in lines if line.startswith('skipped: ')]
    assert len(skipped) == 4 and all('at least 32 pixels; the image is 16 x 16' in line for line in skipped)
    clean, attacked = (line.split('|')[2] for line in lines if line.startswith(('| clean', '| 0 ')))
    assert clean == attacked


@pytest.mark.slow
@pytest.mark.parametrize('codebase, config, metric', [
    ('mmseg', 'configs/mmseg/deeplabv3plus_afan_digits.py', 'mIoU'),
    ('mmdet', 'configs/mmdet/faster_rcnn_afan_digits.py', 'coco/bbox_mAP'),
])
def test_corruption_runs_in_the_test_of_every_codebase(tool, repo, tmp_path, monkeypatch, codebase, config, metric):
    pytest.importorskip(codebase, reason='the config is for that codebase')
    import cv2
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    from mmafan.datasets.scene_files import write_scenes
    folder = tmp_path / 'data'
    write_scenes(folder, num_train=1, num_test=2, size=64, max_digits=1, sides=(24, 44))
    cfg = Config.fromfile(str(repo / config))
    init_default_scope(cfg.default_scope)
    cfg.test_dataloader.dataset.data_root = f'{folder}/'
    cfg.test_dataloader.batch_size = 1
    cfg.work_dir = str(tmp_path / 'work')
    if codebase == 'mmdet':
        cfg.test_evaluator.ann_file = f'{folder}/annotations/test.json'
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta={}), tmp_path / 'weights.pth')
    from mmafan.analysis.corruptions import CorruptImage
    assert tool.usable_corruptions(cfg, ['contrast']) == (['contrast'], {})
    seen, transform = [], CorruptImage.transform

    def record(self, results):
        before = results['img'].copy()
        found = transform(self, results)
        seen.append((before, found['img'], self.severity))
        return found

    monkeypatch.setattr(CorruptImage, 'transform', record)
    clean, corrupted = tool.run_tests(cfg, str(tmp_path / 'weights.pth'), [('contrast', 5)], 'one')
    assert tool.choose_metric(clean, None) == metric and set(corrupted) == set(clean)
    files = [cv2.imread(str(path)) for path in sorted((folder / 'test').iterdir())]
    assert len(seen) == len(files) == 2  # in the corrupted test alone, and right after loading
    for (before, after, severity), image in zip(seen, files):
        assert (before == image).all() and (after != image).any() and severity == 5


@pytest.mark.parametrize('more, sentence', [
    (['--corruptions', 'rain'], "--corruptions must name corruptions (gaussian_noise, "),
    (['--corruptions', 'none', '--no-pgd'], 'there is nothing to measure'),
    (['--device', 'meta'], 'for --corruptions, which mmengine tests there, got '),
])
def test_wrong_arguments_are_one_sentence(tool, repo, checkpoints, capsys, more, sentence):
    with pytest.raises(SystemExit):
        tool.main([str(repo / CONFIG), checkpoints[0], *more])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error')]
    assert len(lines) == 1 and sentence in lines[0]


def test_attack_of_a_detector_is_refused(tool, repo, checkpoints, capsys):
    pytest.importorskip('mmdet', reason='the config is for mmdet')
    with pytest.raises(SystemExit):
        tool.main([str(repo / 'configs/mmdet/faster_rcnn_afan_digits.py'), checkpoints[0], '--pgd-radii', '1'])
    assert '--pgd-radii needs a classifier of mmpretrain, got a config of mmdet' in capsys.readouterr().err


def test_wrong_metric_names_those_there_are(tool, capsys):
    metrics = {'aAcc': 1.0, 'mIoU': 2.0}
    assert tool.choose_metric(metrics, None) == 'mIoU' and tool.choose_metric(metrics, 'aAcc') == 'aAcc'
    with pytest.raises(SystemExit):
        tool.choose_metric(metrics, 'mAP')
    assert "--metric must be one of ['aAcc', 'mIoU'], got 'mAP'" in capsys.readouterr().err
