"""The main job on real images: ``tools/train.py`` with a user's config, killed in mid-run and resumed."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

pytest.importorskip('mmpretrain', reason='the job trains a classifier of mmpretrain')

CONFIG = '''
_base_ = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
custom_imports = dict(imports=['mmafan'], allow_failed_imports=False)
custom_hooks = [dict(type='mmafan.AdvFeatureHook', ramp=1), dict(type='EMAHook', momentum=0.1)]
model = dict(
    type='mmafan.AFANImageClassifier',
    backbone=dict(base_channels=16, stem_channels=16, drop_path_rate=0.1),
    head=dict(in_channels=128),
    afan=dict(taps=dict(stage1=dict(module='backbone.layer1', step_size=0.1, step_unit='std', strengths=(0.5, 1.0),
                                    strength_sampling='random', fraction=0.5, reinject=(False, True), weight=0.5)),
              clean_weight=0.5, batch_norm='separate'))
data_preprocessor = dict(to_rgb=True)
pipeline = [dict(type='LoadImageFromFile'), dict(type='RandomCrop', crop_size=32, padding=4),
            dict(type='RandomFlip', prob=0.5), dict(type='PackInputs')]
train_dataloader = dict(batch_size=16, num_workers=2, dataset=dict(
    _delete_=True, type='CustomDataset', data_root={root!r}, data_prefix='train', pipeline=pipeline, indices={indices}))
val_dataloader = dict(dataset=dict(
    _delete_=True, type='CustomDataset', data_root={root!r}, data_prefix='test', indices={indices},
    pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=3)
default_hooks = dict(logger=dict(interval=2))
'''


def start(repo, config, work_dir, *arguments):
    command = [sys.executable, 'tools/train.py', str(config), '--work-dir', str(work_dir), *arguments]
    environment = dict(os.environ, OMP_NUM_THREADS='1')
    return subprocess.Popen(command, cwd=repo, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            start_new_session=True)


def finish(process):
    output = process.communicate(timeout=900)[0].decode()
    assert process.returncode == 0, output[-3000:]
    return output


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(repo, shared_data, tmp_path):
    config = tmp_path / 'resnet18_afan_mine.py'
    indices = list(range(0, 10000, 100))  # 100 training images of all classes
    root = str(shared_data / 'cifar10_jpg_dev')
    config.write_text(CONFIG.format(root=root, indices=indices[:100]).replace(
        f"data_prefix='test', indices={indices[:100]}", f"data_prefix='test', indices={list(range(0, 2000, 40))}"))
    output = finish(start(repo, config, tmp_path / 'whole'))
    seed = next(int(line.rpartition(' ')[2]) for line in output.splitlines() if line.strip().startswith('seed:'))
    assert 'afan_stage1_adversarial: ' in output and 'adv_stage1_0.loss' not in output

    process = start(repo, config, tmp_path / 'killed', '--cfg-options', f'randomness.seed={seed}')
    deadline = time.time() + 600
    while not (tmp_path / 'killed' / 'epoch_1.pth').exists():
        assert time.time() < deadline and process.poll() is None, 'no checkpoint of the first epoch appeared'
        time.sleep(0.02)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / 'killed' / 'epoch_3.pth').exists()
    finish(start(repo, config, tmp_path / 'killed', '--resume'))

    whole, resumed = [torch.load(tmp_path / run / 'epoch_3.pth', weights_only=False) for run in ('whole', 'killed')]
    for part in ('state_dict', 'ema_state_dict'):
        assert whole[part].keys() == resumed[part].keys()
        for name, value in whole[part].items():
            assert torch.equal(value, resumed[part][name]), (part, name)
    for name, value in whole['mmafan']['norms'].items():
        assert torch.equal(value, resumed['mmafan']['norms'][name]), name
