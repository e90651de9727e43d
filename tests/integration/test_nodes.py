"""``tools/dist_train.sh`` on two nodes: two launches on this machine that meet at an address and a port."""
from __future__ import annotations

import socket

import pytest
import torch

from .test_killed_rank import end, start, write_config

ADDRESS = '127.0.0.2'  # all of 127.0.0.0/8 is this machine, as on Linux
EPOCHS = 1


def free_port():
    with socket.socket() as probe:
        try:
            probe.bind((ADDRESS, 0))
        except OSError:
            pytest.skip(f'{ADDRESS} is no address of this machine')
        return probe.getsockname()[1]


@pytest.mark.slow
def test_two_nodes_train_as_two_processes_of_one(repo, tmp_path):
    """Both share the work folder, as on a cluster; the 200 images are 8 batches of one process, 4 of each of two."""
    config, work_dir, port = write_config(repo, tmp_path, EPOCHS), tmp_path / 'work', str(free_port())
    seed = ('--cfg-options', 'randomness.seed=0')
    outputs = [tmp_path / f'output{rank}.txt' for rank in range(2)]
    try:
        nodes = [start(repo, tmp_path, output, config, 1, '--work-dir', str(work_dir), *seed, NNODES='2',
                       NODE_RANK=str(rank), MASTER_ADDR=ADDRESS, PORT=port) for rank, output in enumerate(outputs)]
        for node, output in zip(nodes, outputs):
            assert node.wait(timeout=300) == 0, output.read_text()[-3000:]
        first, second = [output.read_text() for output in outputs]
        assert 'GPU number: 2' in first  # how mmengine names the number of processes
        assert '[1][4/4]' in first and '[1][4/4]' not in second  # the first process alone writes the log
        alone = start(repo, tmp_path, tmp_path / 'alone.txt', config, 2, '--work-dir', str(tmp_path / 'alone'), *seed)
        assert alone.wait(timeout=300) == 0, (tmp_path / 'alone.txt').read_text()[-3000:]
    finally:
        left = end(tmp_path)
    assert left == 0
    found, expected = (torch.load(folder / f'epoch_{EPOCHS}.pth', map_location='cpu', weights_only=False)['state_dict']
                       for folder in (work_dir, tmp_path / 'alone'))
    assert all(torch.allclose(found[name], value, rtol=0, atol=1e-6) for name, value in expected.items())
