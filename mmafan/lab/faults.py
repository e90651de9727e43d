"""What befalls a run without anyone's mistake: a kill, damaged files, a full disk, a second program in its folder."""
from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, Dict, Iterator, List, Union

from .errors import stop

DISK_FULL = 74  # exit status of one run of several: the others would come to the same end
LOCK = 'MMAFAN_STUDY_LOCK'  # the environment variable with the descriptor of a lock that was passed on
PATIENCE = 3.0  # seconds that the runs of a killed study may take to notice


def is_first_process() -> bool:
    """Whether this is the only process of the training, or the one that speaks for all; before a group is made."""
    names = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
    return next((os.environ[name] for name in names if name in os.environ), '0') == '0'


def trust_checkpoints() -> None:
    """Let checkpoints name any class and call any function: what ``--trust-checkpoint`` asks for."""
    os.environ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'] = '1'


def trusts_checkpoints() -> bool:
    """Whether the user has said so, by the argument or by torch's own variable."""
    return os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '').lower() in ('1', 'y', 'yes', 'true')


def go_on_where_it_was(cfg: Any, start_over: bool = False) -> None:
    """Make a config resume from the newest whole checkpoint of its work folder, and say which, in place.

    Args:
        cfg: With ``work_dir`` and ``resume``.
        start_over: Whether a run without a whole checkpoint is trained from the beginning, which takes no word where it
            is new; else this ends the program with one sentence where there are only damaged ones.
    """
    from ..storage import remove_parts
    from ..storage.resume import find_resume, go_on
    found = find_resume(cfg, trusts_checkpoints())
    if found is None:  # mmengine's own search, which load_from would take the place of
        cfg.load_from = None
        return
    sentence = str(found)
    if found.path is None and found.passed_over:
        refused = any('is refused' in problem for problem in found.passed_over.values())
        if not start_over or refused:
            stop(sentence + ('; if you trust where they come from, say so by --trust-checkpoint' if refused else
                             '; without --resume, training starts from the beginning'))
        sentence += '; training starts from the beginning'
    if is_first_process():
        remove_parts(found.folder, '.pth')
        if found.path is not None or found.passed_over or not start_over:
            print(sentence, file=sys.stderr, flush=True)
    go_on(cfg, found)


def require_whole(path: str, resumable: bool = False) -> str:
    """Return the path of a checkpoint, or stop with a sentence that says what is wrong with it.

    Args:
        path: A file, a folder of a sharding engine, or a URL, which is checked by whoever loads it.
        resumable: Whether it has to hold what a resume needs, not weights alone.
    """
    from ..storage import problem_of
    if '://' not in path:
        problem = problem_of(path, resumable=resumable, trusted=trusts_checkpoints())
        if problem:
            hint = '; if you trust where it comes from, say so by --trust-checkpoint' if 'is refused' in problem else ''
            stop(f'{path} {problem}{hint}')
    return path


def no_space(work_dir: str, command: str = 'the same command') -> str:
    """Sentence for a full disk."""
    return f'no space is left on the disk of {work_dir}; when there is some, {command} goes on from here'


@contextlib.contextmanager
def disk_full_ends(end: Union[int, str]) -> Iterator[None]:
    """End the program where the disk is full, with this sentence or this status."""
    from ..storage import is_disk_full
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        if isinstance(end, int):
            raise SystemExit(end)
        stop(end)


def hold_folder(work_dir: str) -> Any:
    """Make a folder and take its lock for as long as this process lives, or stop with a sentence that says who has it.

    Returns:
        The lock; whoever passes its ``descriptor`` on to processes keeps the folder until they have ended too.
    """
    from ..storage import FolderLock, is_disk_full
    try:
        os.makedirs(work_dir, exist_ok=True)
        lock = FolderLock(work_dir)
        holder = lock.acquire(PATIENCE)
    except OSError as error:
        stop(no_space(work_dir) if is_disk_full(error) else
             f'{work_dir} must be a folder that can be written to, got {type(error).__name__}: {error}')
    if holder is not None:
        stop(f'{work_dir} is in use by {holder}; wait until it has ended, or give another --work-dir')
    return lock


@contextlib.contextmanager
def working_in(work_dir: str) -> Iterator[Any]:
    """Hold a folder, as :func:`hold_folder` does, and say how it goes on after a full disk or an interrupt."""
    lock = hold_folder(work_dir)
    try:
        with disk_full_ends(no_space(work_dir)):
            yield lock
    except KeyboardInterrupt:
        print('\ninterrupted; the same command goes on from here')
        raise SystemExit(130)
    finally:
        lock.release()


def pass_on(lock: Any, environment: Dict[str, str]) -> List[int]:
    """Return the ``pass_fds`` of a process that keeps the folder until it has ended; its environment is told, too."""
    environment[LOCK] = str(lock.descriptor)
    return [lock.descriptor]


def keep_folder() -> None:
    """Keep the folder that :func:`pass_on` has passed to this process, if it has."""
    if LOCK in os.environ:
        from ..storage import FolderLock
        FolderLock('').keep(int(os.environ[LOCK]))
