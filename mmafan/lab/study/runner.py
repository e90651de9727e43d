"""The one runner of arms x seeds: what is finished is read, what is not is trained, here or in processes of its own."""
from __future__ import annotations

import contextlib
import functools
import math
import os
import os.path as osp
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Callable, Dict, Generator, Iterable, Iterator, List, Optional, Sequence, Tuple

from ..errors import stop
from ..faults import DISK_FULL, no_space, pass_on
from .recipe import Study, run_config, run_folder
from .report import Run, write_rows
from .runs import fingerprint, read_json, train_once

PARENT = 'MMAFAN_STUDY_PROCESS'  # the environment variable that tells a run who started it
Ended = Generator[Tuple[Run, int], None, None]  # runs as they end, with exit status


def train_all(studies: Sequence[Study], work_dir: str, train: Callable[[Iterable[Run]], Ended],
              tell: Callable[[Run, Dict[str, Any], str], None]) -> Dict[Run, Dict[str, Any]]:
    """Train every run that is not finished; return all results, each with ``reused``: whether it was finished before.

    A run that fails is told at once and does not keep the others from running; it is missing in what is returned. Every
    run is a row of ``rows.csv`` as soon as it is finished.

    Args:
        studies: Each with its data set.
        work_dir: Folder of the runs.
        train: :func:`here` or :func:`in_processes`, given all but the runs.
        tell: Called with every run, its result and how many there are of all, such as ``'3/8'``.
    """
    by_name = {study.data_set: study for study in studies}
    total = sum(len(study.arms) * len(study.seeds) for study in studies)
    results: Dict[Run, Dict[str, Any]] = {}

    def keep(run: Run, found: Dict[str, Any], reused: bool) -> None:
        name, arm, seed = run
        metric, metrics = by_name[name].metric, found['metrics']
        if math.isfinite(metrics.get(metric, math.nan)) or not metric and metrics:
            results[run] = dict(found, reused=reused)
            write_rows(studies, results, osp.join(work_dir, 'rows.csv'))
            tell(run, results[run], f'{len(results)}/{total}')
            return
        print(f'the run of arm {arm!r} with seed {seed} has no finite {metric!r}: its validation gave '
              f'{metrics or "no number"}; it is trained again when '
              f'{run_folder(by_name[name], work_dir, arm, seed)} is removed', file=sys.stderr, flush=True)

    def unfinished() -> Iterator[Run]:
        for study in studies:
            for seed in study.seeds:
                for arm in study.arms:
                    found = result_of(study, arm, seed, work_dir)
                    if found is None:
                        yield study.data_set, arm, seed
                    else:
                        keep((study.data_set, arm, seed), found, reused=True)

    with contextlib.closing(train(unfinished())) as ended:
        for run, status in ended:
            name, arm, seed = run
            if status == DISK_FULL:
                stop(no_space(work_dir))
            if status:
                print(f'the run of arm {label_of(run)!r} with seed {seed} failed; its log is in '
                      f'{run_folder(by_name[name], work_dir, arm, seed)}', file=sys.stderr, flush=True)
                continue
            found = result_of(by_name[name], arm, seed, work_dir)
            if found is None:  # its config is another one than this process reads: the file has been changed
                stop(f'{studies[0].path} has changed while the study ran; call the same command again')
            keep(run, found, reused=False)
    return results


def label_of(run: Run) -> str:
    """Name the arm of a run, with its data set where there are several."""
    return f'{run[0]}: {run[1]}' if run[0] else run[1]


def line_of(study: Study, run: Run, found: Dict[str, Any], count: str) -> str:
    """Say in a line what a run has come to, and how many there are."""
    return (f'[{count}] {label_of(run)}, seed {run[2]}: {study.metric} {found["metrics"][study.metric]:.4f} in '
            f'{found["seconds"]:.0f} s')


def result_of(study: Study, arm: str, seed: int, work_dir: str) -> Optional[Dict[str, Any]]:
    """Return the result of a run, or None where it is not finished or was one of other settings."""
    cfg = run_config(study, arm, seed, work_dir)
    result = read_json(osp.join(run_folder(study, work_dir, arm, seed), 'result.json'))
    if not isinstance(result.get('metrics'), dict) or result.get('fingerprint') != fingerprint(cfg, study.identity):
        return None
    for name in study.metrics if result['metrics'] else ():
        if name not in result['metrics']:
            field = 'metric' if name == study.metric else 'also'
            stop(f'{field} of {study.path} must be one of {sorted(result["metrics"])}, got {name!r}')
    return result


def train_one(study: Study, arm: str, seed: int, work_dir: str,
              on_epoch: Optional[Callable[[int, float], None]] = None, hooks: tuple = ()) -> Dict[str, Any]:
    """Train one run in this process, unless it is finished; see :func:`train_once`."""
    return train_once(run_config(study, arm, seed, work_dir), study.identity, on_epoch, hooks, study.measures)


def here(runs: Iterable[Run], study: Study, work_dir: str, on_epoch: Callable[[Run, int, float], None]) -> Ended:
    """Train runs in this process, one after another.

    Args:
        runs: Of one study.
        study: The study.
        work_dir: Folder of the runs.
        on_epoch: Called after every epoch with the run, the number of the epoch and the loss.
    """
    for run in runs:
        train_one(study, run[1], run[2], work_dir, functools.partial(on_epoch, run))
        yield run, 0


def in_processes(runs: Iterable[Run], command: Sequence[str], jobs: int, threads: int, lock: Any) -> Ended:
    """Train runs in processes of their own, which share the GPUs in turn and end with this one.

    Args:
        runs: Any.
        command: Program and arguments, to which the run is added.
        jobs: Processes at the same time.
        threads: Of each, on the CPU.
        lock: On the work folder; it is theirs, too.
    """
    running: Dict['Future[int]', Tuple[Run, 'subprocess.Popen[bytes]', int]] = {}
    devices, free, waiting = visible_devices(), list(range(jobs)), iter(runs)
    pool = ThreadPoolExecutor(jobs)
    try:
        run = next(waiting, None)
        while run is not None or running:
            while run is not None and free:
                environment = dict(os.environ, OMP_NUM_THREADS=str(threads), **{PARENT: str(os.getpid())})
                slot = free.pop(0)
                if devices:
                    environment['CUDA_VISIBLE_DEVICES'] = devices[slot % len(devices)]
                process = subprocess.Popen(
                    [*command, '--run', run[0], run[1], str(run[2])], env=environment,
                    start_new_session=True,  # an interrupt is for this process, which ends them
                    pass_fds=pass_on(lock, environment))
                running[pool.submit(process.wait)] = run, process, slot
                run = next(waiting, None)
            for ended in wait(running, return_when=FIRST_COMPLETED).done:
                finished, _, slot = running.pop(ended)
                free = sorted([*free, slot])
                yield finished, ended.result()
    finally:
        for _, process, _ in running.values():
            process.terminate()
        pool.shutdown()


def visible_devices() -> List[str]:
    """Numbers of the GPUs that this process may use, for CUDA_VISIBLE_DEVICES; without a torch that holds memory."""
    named = os.environ.get('CUDA_VISIBLE_DEVICES')
    if named is not None:
        return [name for name in named.split(',') if name]
    import torch
    return [str(number) for number in range(torch.cuda.device_count())]


def end_with_parent(parent: int) -> None:
    """End this process when the one that started it has ended, however that was: two must not train in one folder."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
