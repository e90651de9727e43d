"""Processes on one GPU: NCCL with one process, and SyncBN in two that talk through gloo, as NCCL refuses to share."""
from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmpretrain', reason='the tiny classifier is a model of mmpretrain')

pytestmark = pytest.mark.gpu

WORKER = Path(__file__).parents[1] / 'integration' / 'ddp_worker.py'
OURS, STOCK = 'mmafan.AFANDistributedDataParallel', 'MMDistributedDataParallel'


def train_in_processes(folder, count, **options):
    """Train three steps of a tiny classifier; return what the first process found."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    shared = dict(os.environ, MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), WORLD_SIZE=str(count), LOCAL_RANK='0',
                  GLOO_SOCKET_IFNAME='lo', NCCL_SOCKET_IFNAME='lo')
    logs = [folder / f'log{rank}' for rank in range(count)]
    processes = []
    try:
        for rank, log in enumerate(logs):
            with open(log, 'w') as file:
                processes.append(subprocess.Popen(
                    [sys.executable, str(WORKER), str(folder), json.dumps(options)],
                    env=dict(shared, RANK=str(rank)), stdout=file, stderr=subprocess.STDOUT))
        ended = [process.wait(120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(ended), ''.join(log.read_text()[-3000:] for log in logs)
    return torch.load(folder / 'rank0.pth', map_location='cpu')


def train_alone(**options):
    from ..integration import ddp_worker
    model = ddp_worker.build(**options)
    return {name: value.cpu() for name, value in ddp_worker.train(model, model, 0, 1, **options).items()}


def assert_close(found, expected):
    assert found.keys() == expected.keys() and found
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-7, atol=1e-9), name


@pytest.mark.parametrize('options', [
    dict(wrapper=STOCK), dict(wrapper=OURS), dict(wrapper=OURS, accumulation=2),
    dict(wrapper=OURS, norm='SyncBN', norm_eval=False), dict(wrapper=OURS, schedule='joined', off=-1)],
    ids=['stock', 'ours', 'accumulation', 'SyncBN', 'joined'])
def test_nccl_with_one_process(tmp_path, device, options):
    kind = device.type
    found = train_in_processes(tmp_path, 1, device=kind, backend='nccl' if kind == 'cuda' else 'gloo',
                               **dict(options, **({} if kind == 'cuda' else dict(norm='BN'))))
    assert found['counts'] and set(found['counts'].values()) == {3}  # each bucket is reduced once in a step
    assert_close(found['state'], train_alone(device=kind, **dict(options, norm='BN')))


@pytest.mark.parametrize('fields', [{}, dict(schedule='joined', off=-1)], ids=['auto', 'joined'])
@pytest.mark.parametrize('wrapper', [STOCK, OURS], ids=['stock', 'ours'])
def test_norms_of_two_processes_see_the_whole_batch(tmp_path, cuda, wrapper, fields):
    options = dict(device='cuda', norm_eval=False, wrapper=wrapper, **fields)
    found = train_in_processes(tmp_path, 2, norm='SyncBN', counted=False, **options)
    assert_close(found['state'], train_alone(norm='BN', **options))
