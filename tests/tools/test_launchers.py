"""The shell launchers: what they start, and what they refuse. No training here; see test_train_tool.py."""
from __future__ import annotations

import os
import socket
import subprocess

import pytest

FAKE = """#!/bin/sh
# In place of the program: prints its arguments one per line, and what it was given in the environment.
for word in "$@"; do echo "[$word]"; done
echo "OMP=$OMP_NUM_THREADS"
echo "PYTHONPATH=$PYTHONPATH"
"""
CLEARED = ('NNODES', 'NODE_RANK', 'MASTER_ADDR', 'PORT', 'OMP_NUM_THREADS', 'GPUS', 'GPUS_PER_NODE', 'CPUS_PER_TASK',
           'SRUN', 'SRUN_ARGS', 'PYTHON', 'PYTHONPATH')


@pytest.fixture
def launch(repo, tmp_path):
    """Return a function that runs a script of ``tools`` with fake programs, from another folder."""
    fake = tmp_path / 'fake'
    fake.write_text(FAKE)
    fake.chmod(0o755)

    def run(script, *args, **variables):
        environment = {k: v for k, v in os.environ.items() if k not in CLEARED}
        environment.update({'PYTHON': str(fake), 'SRUN': str(fake), **variables})
        return subprocess.run(['bash', str(repo / 'tools' / script), *args], env=environment, cwd=str(tmp_path),
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)

    return run


def words(result):
    assert result.returncode == 0, result.stderr
    return [line[1:-1] for line in result.stdout.splitlines() if line.startswith('[')]


def refused(result):
    """Return the one sentence that a script ended with."""
    assert result.returncode == 2
    assert result.stdout == ''
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith('error: ')
    return lines[0]


def test_dist_train_starts_torchrun(launch, repo):
    got = words(launch('dist_train.sh', 'a b.py', '2', '--work-dir', 'x y', PORT='1234'))
    assert got == ['-m', 'mmafan.lab.launch', '--nnodes=1', '--node_rank=0', '--master_addr=127.0.0.1',
                   '--master_port=1234', '--nproc_per_node=2', str(repo / 'tools' / 'train.py'), 'a b.py',
                   '--work-dir', 'x y', '--launcher', 'pytorch']


def test_dist_test_passes_config_and_checkpoint(launch, repo):
    got = words(launch('dist_test.sh', 'c.py', 'w.pth', '3', '--out', 'o.pkl'))
    assert '--nproc_per_node=3' in got
    assert got[got.index(str(repo / 'tools' / 'test.py')):] == [
        str(repo / 'tools' / 'test.py'), 'c.py', 'w.pth', '--out', 'o.pkl', '--launcher', 'pytorch']


@pytest.mark.parametrize('variables, port', [(dict(PORT='1234'), 1234), (dict(), 29500), (dict(PORT=''), 29500)])
def test_several_nodes(launch, variables, port):
    """Every node must name the same port: without PORT it is the one that OpenMMLab's scripts take."""
    got = words(launch('dist_train.sh', 'c.py', '8', NNODES='2', NODE_RANK='1', MASTER_ADDR='10.0.0.1', **variables))
    assert got[2:7] == ['--nnodes=2', '--node_rank=1', '--master_addr=10.0.0.1', f'--master_port={port}',
                        '--nproc_per_node=8']


@pytest.mark.parametrize('variables, name', [
    (dict(NNODES='2', PORT='29500'), 'MASTER_ADDR'),
    (dict(NNODES='2', NODE_RANK='1'), 'MASTER_ADDR'),
    (dict(NNODES='two'), 'NNODES'),
    (dict(NNODES='2', NODE_RANK='2', MASTER_ADDR='10.0.0.1', PORT='29500'), 'NODE_RANK'),
    (dict(PYTHON='/does/not/exist'), 'PYTHON'),
    (dict(PORT='ssh'), "PORT must be a whole number above 0, got 'ssh'"),
    (dict(PORT='65536'), "PORT must be below 65536, got '65536'"),
])
@pytest.mark.parametrize('script, args', [('dist_train.sh', ('c.py', '2')), ('dist_test.sh', ('c.py', 'w.pth', '2'))])
def test_wrong_environment_is_one_sentence(launch, script, args, variables, name):
    assert name in refused(launch(script, *args, **variables))


@pytest.mark.parametrize('script, args, word', [
    ('dist_train.sh', (), 'usage'), ('dist_train.sh', ('c.py', ), 'usage'), ('dist_test.sh', ('c.py', '2'), 'usage'),
    ('slurm_train.sh', ('part', 'job', 'c.py'), 'usage'), ('slurm_test.sh', ('part', 'job', 'c.py'), 'usage'),
    ('dist_train.sh', ('c.py', '--amp'), 'GPUS'), ('dist_train.sh', ('c.py', '0'), 'GPUS'),
])
def test_wrong_arguments_are_one_sentence(launch, script, args, word):
    assert word in refused(launch(script, *args))


def test_free_port_is_found(launch, repo, tmp_path):
    """Two runs on one machine must not meet: the port is one that was free, and changes."""
    real = tmp_path / 'python'
    real.write_text(f'#!/bin/sh\nif [ "$1" = -c ]; then exec python3 "$@"; fi\nexec {tmp_path / "fake"} "$@"\n')
    real.chmod(0o755)
    ports = set()
    for _ in range(3):
        got = words(launch('dist_train.sh', 'c.py', '1', PYTHON=str(real)))
        port = int(next(w for w in got if w.startswith('--master_port='))[14:])
        with socket.socket() as check:
            check.bind(('127.0.0.1', port))
        ports.add(port)
    assert len(ports) > 1


@pytest.mark.parametrize('gpus, expected', [('1', max(os.cpu_count(), 1)), ('4096', 1)])
def test_threads_are_shared_among_processes(launch, gpus, expected):
    result = launch('dist_train.sh', 'c.py', gpus, PORT='1')
    threads = int(next(line for line in result.stdout.splitlines() if line.startswith('OMP='))[4:])
    assert 1 <= threads <= expected


def test_own_number_of_threads_is_kept(launch):
    assert 'OMP=7' in launch('dist_train.sh', 'c.py', '2', PORT='1', OMP_NUM_THREADS='7').stdout


def test_package_is_found_from_anywhere(launch, repo):
    assert f'PYTHONPATH={repo}\n' in launch('dist_train.sh', 'c.py', '2', PORT='1').stdout
    assert f'PYTHONPATH={repo}:/more\n' in launch('dist_train.sh', 'c.py', '2', PORT='1', PYTHONPATH='/more').stdout


def test_slurm_train(launch, repo, tmp_path):
    got = words(launch('slurm_train.sh', 'part', 'my job', 'c.py', 'out', '--amp', GPUS='16', GPUS_PER_NODE='4',
                       CPUS_PER_TASK='3', SRUN_ARGS='--quotatype=auto -x node7'))
    assert got == ['-p', 'part', '--job-name=my job', '--gres=gpu:4', '--ntasks=16', '--ntasks-per-node=4',
                   '--cpus-per-task=3', '--kill-on-bad-exit=1', '--quotatype=auto', '-x', 'node7',
                   str(tmp_path / 'fake'), '-u', str(repo / 'tools' / 'train.py'), 'c.py', '--work-dir', 'out', '--amp',
                   '--launcher', 'slurm']


def test_slurm_defaults_and_test(launch, repo):
    got = words(launch('slurm_test.sh', 'part', 'job', 'c.py', 'w.pth', GPUS='2'))
    assert {'--ntasks=2', '--ntasks-per-node=2', '--gres=gpu:2', '--cpus-per-task=5'} <= set(got)
    assert got[-5:] == [str(repo / 'tools' / 'test.py'), 'c.py', 'w.pth', '--launcher', 'slurm']


def test_slurm_without_srun_is_one_sentence(launch):
    assert 'srun' in refused(launch('slurm_train.sh', 'p', 'j', 'c.py', 'out', SRUN='/no/srun'))
