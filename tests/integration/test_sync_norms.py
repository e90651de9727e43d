"""SyncBN in the stock base, in two gloo processes on the CPU: torch synchronises between GPUs alone."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmseg', reason='the small segmentor is a model of mmseg')
pytest.importorskip('mmcv.ops', reason='mmseg needs mmcv with its operators')

WORKER = Path(__file__).with_name('sync_worker.py')


def two_processes(folder, kind):
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', str(WORKER),
               str(folder), kind]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    assert done.returncode == 0, done.stdout.decode()[-3000:]
    return [torch.load(folder / f'rank{rank}.pth') for rank in range(2)]


@pytest.mark.slow
def test_unchanged_config_stops_before_the_first_iteration(tmp_path):
    """DDP says so; where it no longer does, ``mmafan/lab/cpu.py`` need not change the config."""
    for found in two_processes(tmp_path, 'stock'):
        assert found['error'] == 'SyncBatchNorm layers only work with GPU modules'
        counts = [b for n, b in found['buffers'].items() if n.endswith('num_batches_tracked')]
        assert counts and not any(counts)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='about machines without CUDA')
def test_adapted_config_trains_and_protects_the_running_statistics(tmp_path):
    first, second = two_processes(tmp_path, 'adapted')
    assert 'adv_a_0.decode.loss_ce' in first['log'] and first['log'] != second['log']
    for found in (first, second):
        running = [n for n in found['stock'] if 'running' in n]
        assert running and all(torch.equal(found['buffers'][n], found['stock'][n]) for n in running)
    assert not torch.equal(first['stock'][running[0]], second['stock'][running[0]])
