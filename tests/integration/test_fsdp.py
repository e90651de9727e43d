"""FSDP through mmengine's FlexibleRunner on two gloo processes: same weights as under DDP, ordinary checkpoints."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch

pytest.importorskip('mmpretrain', reason='the job trains a classifier of mmpretrain')
pytest.importorskip('sklearn', reason='the digits are part of scikit-learn')

DDP = '''
_base_ = {bases!r}
model = dict(afan=dict(batch_norm={policy!r}))
train_dataloader = dict(batch_size=64)
train_cfg = dict(max_epochs=2)
param_scheduler = []
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.05, momentum=0.9))
default_hooks = dict(checkpoint=dict(interval=1))
randomness = dict(seed=0)
'''
FSDP = DDP + '''
strategy = dict(model_wrapper=dict(use_orig_params=True, auto_wrap_policy=dict(min_num_params=5000)))
'''


def train(repo, folder, name, text, policy='batch', resume=False, fails=False, engine=None):
    config = folder / f'{name}.py'
    bases = ['mmpretrain/resnet_afan_digits.py', *([f'_base_/afan_{engine}.py'] if engine else [])]
    config.write_text(text.format(bases=[str(repo / 'configs' / base) for base in bases], policy=policy))
    command = ['bash', str(repo / 'tools/dist_train.sh'), str(config), '2', '--work-dir', str(folder / name)]
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHON=sys.executable)
    done = subprocess.run([*command, *['--resume'][:resume]], cwd=folder, env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=600)
    output = done.stdout.decode()
    assert (done.returncode != 0) == fails, output[-3000:]
    return output


def load(folder, name, epoch=2):
    return torch.load(folder / name / f'epoch_{epoch}.pth', map_location='cpu', weights_only=False)


@pytest.mark.slow
@pytest.mark.usefixtures('fsdp')
@pytest.mark.skipif(torch.cuda.is_available(), reason='about two processes on a CPU')
def test_trains_saves_and_resumes_as_under_ddp(repo, tmp_path):
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope
    train(repo, tmp_path, 'ddp', DDP)
    log = train(repo, tmp_path, 'fsdp', FSDP, engine='fsdp')
    assert 'afan_stage1_adversarial: ' in log and 'single-graph' in log
    ddp, fsdp = load(tmp_path, 'ddp')['state_dict'], load(tmp_path, 'fsdp')['state_dict']
    start = load(tmp_path, 'ddp', 1)['state_dict']
    assert list(ddp) == list(fsdp)
    for name, value in ddp.items():
        torch.testing.assert_close(fsdp[name], value, rtol=1e-3, atol=1e-4, msg=name)  # float32, another order of sums
    assert max(float((ddp[n] - start[n]).abs().max()) for n in ddp if n.endswith('weight')) > 1e-2

    shutil.copytree(tmp_path / 'fsdp', tmp_path / 'again')
    (tmp_path / 'again' / 'epoch_2.pth').unlink()
    (tmp_path / 'again' / 'last_checkpoint').write_text(str(tmp_path / 'again' / 'epoch_1.pth'))
    assert 'resumed epoch: 1' in train(repo, tmp_path, 'again', FSDP, resume=True, engine='fsdp')
    for name, value in load(tmp_path, 'again')['state_dict'].items():
        torch.testing.assert_close(value, fsdp[name], rtol=1e-3, atol=1e-4, msg=name)

    init_default_scope('mmpretrain')
    baseline = Config.fromfile(str(repo / 'configs/mmpretrain/resnet_digits.py'))
    MODELS.build(baseline.model).load_state_dict(fsdp, strict=True)  # the stock model takes the checkpoint


@pytest.mark.slow
@pytest.mark.usefixtures('fsdp')
@pytest.mark.skipif(torch.cuda.is_available(), reason='about two processes on a CPU')
@pytest.mark.parametrize('original', [True, False])
def test_auxiliary_norms_are_refused(repo, tmp_path, original):
    text = FSDP.replace('use_orig_params=True', f'use_orig_params={original}')
    log = train(repo, tmp_path, 'fsdp', text, policy='separate', fails=True, engine='fsdp')
    assert "afan.batch_norm must not be 'separate' where an engine shards the parameters" in log
    assert 'Epoch(train)' not in log
