"""The runner of studies: every run that is not finished, several at a time, each in a process of its own."""
from __future__ import annotations

import argparse
import math
import os
import os.path as osp
import subprocess
import sys
import threading
import time
from typing import Any, Dict, List, Optional, Sequence

from ..errors import stop
from ..faults import DISK_FULL, no_space, pass_on
from ..processes import own_command
from .recipe import Study, run_config, run_folder
from .report import Run, write_rows
from .runs import fingerprint, read_json, train_once

PARENT = 'MMAFAN_STUDY_PROCESS'  # the environment variable that tells a run who started it


def end_with_parent(parent: int) -> None:
    """End this process when the one that started it has ended, however that was: two must not train in one folder."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def train_one(study: Study, arm: str, seed: int, work_dir: str) -> None:
    """Train one run in this process, unless it is finished."""
    train_once(run_config(study, arm, seed, work_dir), study.identity, measures=study.measures)


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


def visible_devices() -> List[str]:
    """Numbers of the GPUs that this process may use, for CUDA_VISIBLE_DEVICES; without a torch that holds memory."""
    named = os.environ.get('CUDA_VISIBLE_DEVICES')
    if named is not None:
        return [name for name in named.split(',') if name]
    import torch
    return [str(number) for number in range(torch.cuda.device_count())]


def train_all(studies: Sequence[Study], args: argparse.Namespace, work_dir: str) -> Dict[Run, Dict[str, Any]]:
    """Train every run that is not finished, ``args.jobs`` at a time; return all results.

    A run that fails is told at once and does not keep the others from running; it is missing in what is returned. Every
    run is a row of ``rows.csv`` as soon as it is finished.
    """
    rows_path = osp.join(work_dir, 'rows.csv')
    by_name = {study.data_set: study for study in studies}
    waiting = [(study.data_set, arm, seed) for study in studies for seed in study.seeds for arm in study.arms]
    results: Dict[Run, Dict[str, Any]] = {}
    running: Dict[Run, subprocess.Popen] = {}
    slots: Dict[Run, int] = {}
    total = len(waiting)
    devices = visible_devices()

    def keep(key: Run, found: Dict[str, Any]) -> bool:
        name, arm, seed = key
        metric = by_name[name].metric
        if math.isfinite(found['metrics'].get(metric, math.nan)):
            results[key] = found
            write_rows(studies, results, rows_path)
            return True
        print(f'the run of arm {arm!r} with seed {seed} has no finite {metric!r}: its validation gave '
              f'{found["metrics"] or "no number"}; it is trained again when '
              f'{run_folder(by_name[name], work_dir, arm, seed)} is removed', file=sys.stderr, flush=True)
        return False

    try:
        while waiting or running:
            while waiting and len(running) < args.jobs:
                name, arm, seed = key = waiting.pop(0)
                found = result_of(by_name[name], arm, seed, work_dir)
                if found is not None:
                    keep(key, found)
                    continue
                environment = dict(os.environ, OMP_NUM_THREADS=str(args.threads), **{PARENT: str(os.getpid())})
                slots[key] = min(set(range(args.jobs)) - set(slots.values()))
                if devices:
                    environment['CUDA_VISIBLE_DEVICES'] = devices[slots[key] % len(devices)]
                running[key] = subprocess.Popen(
                    [*own_command('study'), *args.argv, '--run', name, arm, str(seed)],
                    env=environment, start_new_session=True,  # an interrupt is for this process, which ends them
                    pass_fds=pass_on(args.lock, environment))
            for key in [k for k, process in running.items() if process.poll() is not None]:
                name, arm, seed = key
                label = f'{name}: {arm}' if name else arm
                del slots[key]
                status = running.pop(key).returncode
                if status == DISK_FULL:
                    stop(no_space(work_dir))
                if status:
                    print(f'the run of arm {label!r} with seed {seed} failed; its log is in '
                          f'{run_folder(by_name[name], work_dir, arm, seed)}', file=sys.stderr, flush=True)
                    continue
                found = result_of(by_name[name], arm, seed, work_dir)
                if found is None:  # its config is another one than this process reads: the file has been changed
                    stop(f'{studies[0].path} has changed while the study ran; call the same command again')
                if not keep(key, found):
                    continue
                metric = by_name[name].metric
                print(f'[{len(results)}/{total}] {label}, seed {seed}: {metric} {found["metrics"][metric]:.4f} in '
                      f'{found["seconds"]:.0f} s', flush=True)
            time.sleep(0.2)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    return results
