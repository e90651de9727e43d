"""``tools/slurm_train.sh`` with a stand-in for the cluster's ``srun``: two tasks on this machine."""
from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .test_killed_rank import CLEARED, write_config
from .test_nodes import free_port

# Starts the program twice, as srun does, with what slurm gives each task.
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do
    case $1 in -p) shift 2 ;; *) shift ;; esac
done
for rank in 0 1; do
    SLURM_PROCID=$rank SLURM_NTASKS=2 SLURM_LOCALID=$rank SLURM_NODELIST='node[1]' "$@" &
    tasks[$rank]=$!
done
wait "${tasks[0]}"
first=$?
wait "${tasks[1]}"
exit $((first | $?))
"""
SCONTROL = """#!/bin/sh
[ "$*" = 'show hostname node[1]' ] && echo 127.0.0.1
"""


@pytest.mark.slow
def test_two_tasks_train_one_model(repo, tmp_path):
    """The 200 images are 8 batches of one process, 4 of each of two."""
    config, work_dir = write_config(repo, tmp_path, 1), tmp_path / 'work'
    for name, text in (('srun', SRUN), ('scontrol', SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name not in CLEARED}
    environment.update(PATH=f'{tmp_path}:{environment["PATH"]}', PYTHON=sys.executable, OMP_NUM_THREADS='1', GPUS='2',
                       MASTER_PORT=str(free_port()))
    done = subprocess.run(['bash', 'tools/slurm_train.sh', 'partition', 'job', str(config), str(work_dir)], cwd=repo,
                          env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    output = done.stdout.decode()
    assert done.returncode == 0, output[-3000:]
    assert 'GPU number: 2' in output  # how mmengine names the number of processes
    assert output.count('[1][4/4]') == 1  # the first process alone writes the log
    assert 'single-graph' not in output  # tools/train.py chooses our wrapper here too
    assert (work_dir / 'epoch_1.pth').exists()
