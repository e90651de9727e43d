"""``tools/dist_train.sh`` on two nodes: two launches on this machine that meet at an address and a port."""
from __future__ import annotations

import socket

import pytest

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
def test_two_nodes_train_one_model(repo, tmp_path):
    """Both share the work folder, as on a cluster; the 200 images are 8 batches of one process, 4 of each of two."""
    config, work_dir, port = write_config(repo, tmp_path, EPOCHS), tmp_path / 'work', str(free_port())
    outputs = [tmp_path / f'output{rank}.txt' for rank in range(2)]
    try:
        nodes = [start(repo, tmp_path, output, config, 1, '--work-dir', str(work_dir), NNODES='2',
                       NODE_RANK=str(rank), MASTER_ADDR=ADDRESS, PORT=port) for rank, output in enumerate(outputs)]
        for node, output in zip(nodes, outputs):
            assert node.wait(timeout=300) == 0, output.read_text()[-3000:]
        first, second = [output.read_text() for output in outputs]
        assert 'GPU number: 2' in first  # how mmengine names the number of processes
        assert '[1][4/4]' in first and '[1][4/4]' not in second  # the first process alone writes the log
        assert (work_dir / f'epoch_{EPOCHS}.pth').exists()
    finally:
        left = end(tmp_path)
    assert left == 0
