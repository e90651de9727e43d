"""A study under a full disk, damaged files and a second study in its folder; with a task of mmengine alone."""
from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
HERE = Path(__file__).resolve().parents[2] / 'integration'


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    import toy_task
    return toy_task


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 12 MB, and a function that makes it larger."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    made = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=12m', 'none', str(folder)], stderr=subprocess.PIPE)
    if made.returncode:
        pytest.skip(f'a disk of 12 MB cannot be mounted here: {made.stderr.decode().strip()}')
    yield folder, lambda: subprocess.run(['mount', '-o', 'remount,size=200m', str(folder)], check=True)
    subprocess.run(['umount', '-l', str(folder)], check=True)


def write_study(toy, tmp_path, width):
    (tmp_path / 'toy.py').write_text(toy.toy_config(epochs=2, keep=1, norm='batch', width=width))
    path = tmp_path / 'mine.py'
    path.write_text("config = 'toy.py'\nmetric = 'accuracy'\nseeds = 2\n"
                    "arms = dict(baseline=dict(options={'model.afan.taps.s.weight': 0.0}), afan=dict())\n")
    return path


def start(repo, toy, path, work_dir, **environment):
    return subprocess.Popen(
        [sys.executable, 'tools/study.py', str(path), '--work-dir', str(work_dir), '--jobs', '1'], cwd=str(repo),
        env=toy.environment(repo, **environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        universal_newlines=True)


def end(process):
    output, errors = process.communicate(timeout=900)
    return process.returncode, output, errors


def rows(work_dir):
    """All of the rows but the seconds."""
    found = [line.split(',') for line in (work_dir / 'rows.csv').read_text().splitlines()]
    return [row[:5] + row[6:] for row in found]


def test_a_full_disk_stops_a_study_which_goes_on_when_there_is_room(repo, toy, tmp_path, small_disk):
    folder, enlarge = small_disk
    path = write_study(toy, tmp_path, width=600_000)
    status, _, errors = end(start(repo, toy, path, folder / 'work'))
    sentence = f'error: no space is left on the disk of {folder}/work; when there is some, the same command goes on'
    assert status == 2 and errors.strip().splitlines()[-1] == f'{sentence} from here', errors[-3000:]
    assert 'Traceback' not in errors, errors[-3000:]
    left = [str(found) for found in folder.glob('**/*.part')]
    assert not left
    done = rows(folder / 'work')[1:]
    assert 1 <= len(done) < 4
    status, _, errors = end(start(repo, toy, path, folder / 'work'))  # still no room
    assert status == 2 and errors.strip().splitlines()[-1] == f'{sentence} from here'
    tool = [sys.executable, 'tools/train.py', str(tmp_path / 'toy.py'), '--work-dir', str(folder / 'one')]
    one = subprocess.run(tool, cwd=str(repo), env=toy.environment(repo), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         universal_newlines=True, timeout=600)
    assert one.returncode == 2 and one.stderr.strip().splitlines()[-1] == (
        f'error: no space is left on the disk of {folder}/one; when there is some, the same command with --resume goes '
        'on from here'), one.stderr[-3000:]
    enlarge()
    status, output, errors = end(start(repo, toy, path, folder / 'work'))
    assert status == 0, errors[-3000:]
    assert rows(folder / 'work')[1:1 + len(done)] == done and len(rows(folder / 'work')) == 5
    straight = end(start(repo, toy, path, tmp_path / 'straight'))
    assert straight[0] == 0 and rows(tmp_path / 'straight') == rows(folder / 'work')


def test_damaged_files_cost_their_run_only_and_a_second_study_is_kept_out(repo, toy, tmp_path):
    path, work_dir = write_study(toy, tmp_path, width=4), tmp_path / 'work'
    first = start(repo, toy, path, work_dir, TOY_EPOCH_SECONDS='2')
    limit = time.monotonic() + 300
    while not (work_dir / 'baseline' / 'seed_0' / 'started.json').exists() and time.monotonic() < limit:
        time.sleep(0.05)
    status, _, errors = end(start(repo, toy, path, work_dir))
    assert status == 2 and errors.startswith(f'error: {work_dir} is in use by process {first.pid} on ')
    assert errors.count('\n') == 1
    status, _, errors = end(first)
    assert status == 0, errors[-3000:]
    whole = rows(work_dir)
    assert len(whole) == 5 and not list(work_dir.glob('*/seed_*.*'))  # no run was put aside

    run = work_dir / 'afan' / 'seed_1'
    damaged = {'result.json': b'{"fingerprint": "', 'epoch_2.pth': b'PK\3\4half', 'last_checkpoint': b''}
    for name, content in damaged.items():
        (run / name).write_bytes(content)
    (work_dir / 'afan' / 'seed_0' / 'started.json').write_bytes(b'{')
    untouched = os.stat(work_dir / 'baseline' / 'seed_0' / 'epoch_2.pth').st_mtime_ns
    status, output, errors = end(start(repo, toy, path, work_dir))
    assert status == 0 and rows(work_dir) == whole, errors[-3000:]
    assert f'no checkpoint in {run} is whole: epoch_2.pth is cut short; training starts from the beginning' in errors
    assert [line.partition(':')[0] for line in output.splitlines() if line.startswith('[')] == ['[4/4] afan, seed 1']
    assert os.stat(work_dir / 'baseline' / 'seed_0' / 'epoch_2.pth').st_mtime_ns == untouched
