"""Trainings that are killed for good, at random moments and at every step of saving, end as if they had not been."""
from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parent


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    import toy_task
    return toy_task


def command(config, work_dir, *arguments):
    return [sys.executable, 'tools/train.py', str(config), '--work-dir', str(work_dir), *arguments]


def finish(repo, toy, config, work_dir, *arguments):
    done = subprocess.run(command(config, work_dir, *arguments), cwd=str(repo), env=toy.environment(repo),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def equal(one, other):
    whole, resumed = (torch.load(path) for path in (one, other))
    for part in ('state_dict', 'ema_state_dict'):
        assert whole[part].keys() == resumed[part].keys()
        for name, value in whole[part].items():
            assert torch.equal(value, resumed[part][name]), (part, name)
    for name, value in whole['mmafan']['norms'].items():
        assert torch.equal(value, resumed['mmafan']['norms'][name]), name


def sentence(output, work_dir):
    """The one line that says from where a training goes on."""
    lines = [line for line in output.splitlines() if line.startswith(('going on from', 'there is no checkpoint in'))]
    assert len(lines) == 1 and str(work_dir) in lines[0], lines
    return lines[0]


@pytest.mark.slow
@pytest.mark.parametrize('keep, event, said', [
    (1, 'open:epoch_2.pth.part', 'epoch_1.pth'),
    (1, 'os.rename:epoch_2.pth.part', 'epoch_1.pth'),
    (1, 'os.remove:epoch_1.pth', 'epoch_2.pth'),
    (2, 'open:last_checkpoint', 'epoch_1.pth, the newest whole checkpoint: there is no last_checkpoint'),
    (-1, 'os.rename:epoch_1.pth.part', 'there is no checkpoint in'),
])
def test_killed_at_a_step_of_saving(repo, toy, tmp_path, keep, event, said):
    config = tmp_path / 'toy.py'
    config.write_text(toy.toy_config(epochs=3, keep=keep, best='accuracy'))
    finish(repo, toy, config, tmp_path / 'whole')
    work_dir = tmp_path / 'killed'
    done = subprocess.run(command(config, work_dir), cwd=str(repo), env=toy.environment(repo, TOY_KILL=event),
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=600)
    assert done.returncode == -signal.SIGKILL and not (work_dir / 'epoch_3.pth').exists()
    assert said in sentence(finish(repo, toy, config, work_dir, '--resume'), work_dir)
    equal(tmp_path / 'whole' / 'epoch_3.pth', work_dir / 'epoch_3.pth')
    kept = len(list(work_dir.glob('epoch_*.pth')))
    assert kept == (3 if keep < 0 else keep) and not list(work_dir.glob('*.part'))


RANDOM_KILLS = textwrap.dedent('''
    """Fork trainings and kill them: a fork has imported everything, so that the time goes into training."""
    import os, random, signal, sys, time
    from pathlib import Path
    repo, config, work_dir, log, keep, kills, last = sys.argv[1:]
    import toy_task
    from mmafan.lab import cpu, train
    work_dir, draw = Path(work_dir), random.Random(int(keep))

    def fork(seconds, *arguments):
        pid = os.fork()
        if pid == 0:
            os.environ['TOY_EPOCH_SECONDS'] = seconds
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1), os.dup2(file, 2)
            status = 1
            try:
                train.main([config, *arguments])
                status = 0
            finally:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(status)
        return pid

    for kill in range(int(kills)):
        before = set(work_dir.glob('epoch_*'))
        pid = fork('0.2', '--work-dir', str(work_dir), '--resume')
        end = time.monotonic() + 300
        while set(work_dir.glob('epoch_*')) <= before and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.5))
        assert not (work_dir / last).exists(), 'finished: longer training is needed'
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL, open(log).read()[-3000:]
        [said] = [line for line in open(log) if line.startswith(('going on from', 'there is no checkpoint in'))]
        left = sorted(path.name for path in work_dir.glob('*.p*') if path.suffix != '.py')
        print(f'keep {keep}, kill {kill + 1}: {said.strip()}; left {left}', flush=True)
    for arguments in (('--work-dir', str(work_dir), '--resume'), ('--work-dir', str(work_dir.parent / 'whole'))):
        assert os.waitpid(fork('0', *arguments), 0)[1] == 0, open(log).read()[-3000:]
    ''')


@pytest.mark.slow
@pytest.mark.parametrize('keep, kills', [(1, 7), (2, 7), (-1, 6)])
def test_killed_at_random_moments(repo, toy, tmp_path, keep, kills):
    """The checkpoints are large, so that many a kill falls into the writing of one."""
    epochs, work_dir = 6 * kills, tmp_path / 'killed'
    (tmp_path / 'toy.py').write_text(toy.toy_config(epochs=epochs, keep=keep, width=3_000_000, best='accuracy'))
    done = subprocess.run(
        [sys.executable, '-c', RANDOM_KILLS, str(repo), str(tmp_path / 'toy.py'), str(work_dir),
         str(tmp_path / 'log.txt'), str(keep), str(kills), f'epoch_{epochs}.pth'], cwd=str(repo),
        env=toy.environment(repo), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True,
        timeout=1200)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count('keep ') == kills
    equal(tmp_path / 'whole' / f'epoch_{epochs}.pth', work_dir / f'epoch_{epochs}.pth')
    assert len(list(work_dir.glob('epoch_*.pth'))) == (epochs if keep < 0 else keep)
    assert not list(work_dir.glob('*.part'))
