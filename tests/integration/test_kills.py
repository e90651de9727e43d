"""Trainings that are killed for good, at random moments and at every step of saving, end as if they had not been."""
from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
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


@pytest.mark.slow
@pytest.mark.parametrize('keep, kills', [(1, 7), (2, 7), (-1, 6)])
def test_killed_at_random_moments(repo, toy, tmp_path, keep, kills):
    """The checkpoints are large, so that many a kill falls into the writing of one."""
    epochs, draw = 4 * kills, random.Random(keep)
    config, work_dir = tmp_path / 'toy.py', tmp_path / 'killed'
    config.write_text(toy.toy_config(epochs=epochs, keep=keep, width=200_000, best='accuracy'))
    log = tmp_path / 'log.txt'
    done = 0
    while done < kills:
        if (work_dir / f'epoch_{epochs}.pth').exists():
            pytest.fail(f'finished after {done} kills: longer training is needed')
        before = set(work_dir.glob('epoch_*')) if work_dir.exists() else set()
        with open(log, 'w') as file:
            process = subprocess.Popen(
                command(config, work_dir, '--resume'), cwd=str(repo), start_new_session=True, stdout=file,
                stderr=subprocess.STDOUT, env=toy.environment(repo, TOY_EPOCH_SECONDS='0.3'))
        end = time.monotonic() + 300
        while set(work_dir.glob('epoch_*')) <= before and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.6))
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, log.read_text()[-3000:]
        print(f'keep {keep}, kill {done + 1}: {sentence(log.read_text(), work_dir)}; left '
              f'{sorted(path.name for path in work_dir.glob("*.p*"))}')
        done += 1
    output = finish(repo, toy, config, work_dir, '--resume')
    print(sentence(output, work_dir))
    finish(repo, toy, config, tmp_path / 'whole')
    equal(tmp_path / 'whole' / f'epoch_{epochs}.pth', work_dir / f'epoch_{epochs}.pth')
