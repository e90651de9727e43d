"""A folder is one run's, until the last of its processes has ended."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from mmafan.storage import FolderLock

HOLDER = textwrap.dedent('''
    import os, subprocess, sys, time
    from lock import FolderLock  # the file alone: importing all of mmafan takes seconds
    lock = FolderLock(sys.argv[1])
    assert lock.acquire() is None
    code = 'import time; print("child", flush=True); time.sleep(60)'
    child = subprocess.Popen([sys.executable, '-c', code], pass_fds=[lock.descriptor] if sys.argv[2] == 'pass' else [])
    if os.fork() == 0:  # as a worker of a data loader, which may outlive whoever started it
        time.sleep(3)
        os._exit(0)
    print(child.pid, flush=True)
    time.sleep(60)
    ''')


def test_a_second_one_is_told_who_has_it(tmp_path):
    first = FolderLock(str(tmp_path))
    assert first.acquire() is None
    holder = FolderLock(str(tmp_path)).acquire(patience=0.15)
    assert f'process {os.getpid()} on ' in holder and sys.argv[0] in holder
    with pytest.raises(BlockingIOError, match=f'is in use by process {os.getpid()}'), FolderLock(str(tmp_path)):
        pass
    first.release()
    first.release()
    with FolderLock(str(tmp_path)) as lock:
        assert lock.descriptor is not None
    assert FolderLock(str(tmp_path)).acquire() is None


@pytest.mark.parametrize('passed', ['pass', 'keep'])
def test_a_kill_releases_it_once_the_processes_that_it_was_passed_to_have_ended(tmp_path, repo, passed):
    environment = dict(os.environ, PYTHONPATH=str(repo / 'mmafan' / 'storage'))
    with subprocess.Popen([sys.executable, '-c', HOLDER, str(tmp_path), passed], stdout=subprocess.PIPE,
                          universal_newlines=True, env=environment) as process:
        said = {process.stdout.readline().strip(), process.stdout.readline().strip()}
        [child] = [int(word) for word in said - {'child'}]
        try:
            assert f'process {process.pid}' in FolderLock(str(tmp_path)).acquire()
            process.kill()
            process.wait()
            if passed == 'pass':
                assert f'process {process.pid}' in FolderLock(str(tmp_path)).acquire()
        finally:
            os.kill(child, signal.SIGKILL)
    assert FolderLock(str(tmp_path)).acquire(patience=2) is None


def test_a_folder_that_is_moved_keeps_its_lock(tmp_path):
    (tmp_path / 'a').mkdir()
    with FolderLock(str(tmp_path / 'a')):
        os.rename(tmp_path / 'a', tmp_path / 'b')
        assert FolderLock(str(tmp_path / 'b')).acquire() is not None
