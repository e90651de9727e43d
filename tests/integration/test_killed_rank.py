"""A launch of several processes in which one is killed: all of it ends, and ``--resume`` goes on."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip('mmpretrain', reason='the job trains a classifier of mmpretrain')
pytest.importorskip('sklearn', reason='the images are those of scikit-learn')
if not Path('/proc/self/environ').exists():
    pytest.skip('processes are found through /proc', allow_module_level=True)

CONFIG = '''
_base_ = {base!r}
train_cfg = dict(max_epochs={epochs}, val_interval={epochs})
default_hooks = dict(logger=dict(interval=4), checkpoint=dict(interval=1, max_keep_ckpts=-1))
'''
CLEARED = ('NNODES', 'NODE_RANK', 'MASTER_ADDR', 'PORT', 'PYTHON', 'RANK', 'WORLD_SIZE', 'LOCAL_RANK')
MARK = 'MMAFAN_TEST_LAUNCH'
EPOCHS = 8


def write_config(repo, folder, epochs):
    config = folder / 'mine.py'
    base = str(repo / 'configs' / 'mmpretrain' / 'resnet_afan_digits.py')
    config.write_text(CONFIG.format(base=base, epochs=epochs))
    return config


def start(repo, mark, output, config, processes, *arguments, **variables):
    """Start ``tools/dist_train.sh``; it and all it starts have ``mark`` in their environment."""
    environment = {name: value for name, value in os.environ.items() if name not in CLEARED}
    environment.update({'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable, MARK: str(mark), **variables})
    command = ['bash', 'tools/dist_train.sh', str(config), str(processes), *arguments]
    with open(output, 'wb') as file:  # a pipe would stay open as long as any process of the launch lives
        return subprocess.Popen(command, cwd=repo, env=environment, stdout=file, stderr=subprocess.STDOUT)


def processes_of(mark):
    """Return the environment of every process of a launch."""
    found = {}
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            words = (folder / 'environ').read_bytes().decode(errors='replace').split('\0')
        except OSError:  # it has ended, or is somebody else's
            continue
        environment = dict(word.split('=', 1) for word in words if '=' in word)
        if environment.get(MARK) == str(mark):
            found[int(folder.name)] = environment
    return found


def end(mark):
    """Kill what is left of a launch; return how many processes that were."""
    left = processes_of(mark)
    for process in left:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return len(left)


@pytest.mark.slow
def test_killed_rank_ends_the_launch_and_the_run_resumes(repo, tmp_path):
    config, work_dir, output = write_config(repo, tmp_path, EPOCHS), tmp_path / 'work', tmp_path / 'output.txt'
    arguments = (repo, tmp_path, output, config, 2, '--work-dir', str(work_dir))
    try:
        launch = start(*arguments)
        deadline = time.time() + 300
        while not (work_dir / 'last_checkpoint').exists():
            assert time.time() < deadline and launch.poll() is None, output.read_text()[-3000:]
            time.sleep(0.02)
        ranks = {environment['RANK']: pid for pid, environment in processes_of(tmp_path).items()
                 if 'RANK' in environment}
        assert sorted(ranks) == ['0', '1']
        os.kill(ranks['1'], signal.SIGKILL)
        assert launch.wait(timeout=60) != 0
        assert not processes_of(tmp_path)
        assert not (work_dir / f'epoch_{EPOCHS}.pth').exists()

        last = Path((work_dir / 'last_checkpoint').read_text())
        launch = start(*arguments, '--resume')
        assert launch.wait(timeout=300) == 0, output.read_text()[-3000:]
        epoch = int(last.stem.rpartition('_')[2])
        text = output.read_text()
        assert f'resumed epoch: {epoch}, ' in text
        assert f'Epoch(train) [{epoch + 1}]' in text and f'Epoch(train) [{epoch}]' not in text
        assert 'single-graph' not in text  # under the wrapper that the tool chooses
        assert (work_dir / f'epoch_{EPOCHS}.pth').exists()
    finally:
        left = end(tmp_path)
    assert left == 0


@pytest.mark.slow
def test_what_a_wrong_field_is_told_comes_last(repo, tmp_path):
    """Not in the middle of what torchrun says about the processes that it ended."""
    config, output = write_config(repo, tmp_path, EPOCHS), tmp_path / 'output.txt'
    try:
        launch = start(repo, tmp_path, output, config, 2, '--work-dir', str(tmp_path / 'work'), '--cfg-options',
                       'model_wrapper_cfg.static_graph=True', 'optim_wrapper.accumulative_counts=2')
        assert launch.wait(timeout=300) == 2
    finally:
        left = end(tmp_path)
    assert left == 0
    last = output.read_text().splitlines()[-1]
    assert last.startswith('error: model_wrapper_cfg.static_graph must be False with ')
