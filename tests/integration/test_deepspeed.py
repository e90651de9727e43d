"""DeepSpeed ZeRO through mmengine's FlexibleRunner on two gloo processes: the same training as under DDP."""
from __future__ import annotations

import importlib.util
import json

import pytest
import torch

from .test_fsdp import DDP, train

pytest.importorskip('mmpretrain', reason='the job trains a classifier of mmpretrain')
pytest.importorskip('sklearn', reason='the digits are part of scikit-learn')

ADAM = DDP.replace("type='SGD', lr=0.05, momentum=0.9", "type='AdamW', lr=1e-3")
ZERO = ADAM + '''
strategy = dict(zero_optimization=dict(stage={stage}, overlap_comm=False))
optim_wrapper.update(type='DeepSpeedOptimWrapper')
default_hooks.update(logger=dict(interval=1))
'''


def losses(folder, name):
    [log] = (folder / name).glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [row['loss'] for row in rows if 'loss' in row], rows


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec('deepspeed'), reason='needs pip install deepspeed==0.16.9')
@pytest.mark.skipif(torch.cuda.is_available(), reason='about two processes on a CPU')
@pytest.mark.parametrize('stage', [1, 2, 3])
def test_trains_as_under_ddp(repo, tmp_path, stage):
    train(repo, tmp_path, 'ddp', ADAM + 'default_hooks.update(logger=dict(interval=1))\n')
    log = train(repo, tmp_path, 'zero', ZERO.replace('{stage}', str(stage)), engine='deepspeed')
    assert 'single-graph' in log
    (plain, _), (sharded, rows) = losses(tmp_path, 'ddp'), losses(tmp_path, 'zero')
    assert len(plain) == 4 and 'adv_stage1_1.loss' in rows[0]
    assert sharded == pytest.approx(plain, rel=1e-3)  # four steps; the first one alone is before any update
    assert (tmp_path / 'zero' / 'epoch_2.pth').is_dir()
