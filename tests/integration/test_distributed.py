"""Two gloo processes under the stock DDP wrapper."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmpretrain', reason='the tiny classifier is a model of mmpretrain')

WORKER = Path(__file__).with_name('ddp_worker.py')


def two_processes(folder, policy, norm_eval, learned=False):
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', str(WORKER),
               str(folder), policy, str(norm_eval), str(learned)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    assert done.returncode == 0, done.stdout.decode()[-3000:]
    return [torch.load(folder / f'rank{rank}.pth') for rank in range(2)]


def one_process(policy, norm_eval, learned=False):
    from . import ddp_worker
    model = ddp_worker.build(policy, norm_eval, learned)
    return ddp_worker.train(model, model, 0, 1)


@pytest.mark.parametrize('learned', [False, True])
def test_two_processes_equal_one_with_the_whole_batch(tmp_path, learned):
    """Norms are frozen; the one process runs two-phase, the two run single-graph."""
    first, second = two_processes(tmp_path, 'batch', True, learned)
    whole = one_process('batch', True, learned)
    for name, value in whole.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name].double(), value.double(), rtol=0, atol=1e-10), name


def test_auxiliary_norms_do_not_stall_ddp(tmp_path):
    """They take no part while A-FAN is off, and those of the head never do; DDP waits for every parameter."""
    first, second = two_processes(tmp_path, 'separate', False)
    stock = {n for n in first if 'running' not in n and 'num_batches' not in n}
    assert all(torch.equal(first[n], second[n]) for n in stock)
