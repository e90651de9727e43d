"""Train the arms of a study with several seeds, several runs at a time, and compare them with its baseline.

    python tools/study.py STUDY.py [--work-dir DIR] [--jobs N]

A study file names a config, the arms (what each overrides), the seeds, the metric and the data sets;
configs/studies/README.md describes it. Runs of the same seed start from the same weights, where the arms have the same
ones, and see the same samples in the same order. A killed study goes on where it was when the same command is called
again. Beside the table it keeps every run as a row of rows.csv, and a picture. Runs at the same time share the GPUs in
turn.
"""
from __future__ import annotations

import argparse
import csv
import io
import math
import os
import os.path as osp
import signal
import statistics
import subprocess
import sys
import threading
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

from _common import CFG_OPTIONS_HELP, CfgOptions, stop
from _faults import DISK_FULL, disk_full_ends, hold_folder, keep_folder, no_space, pass_on
from _runs import ATTACKED_SHARE, fingerprint, quiet, read_json, train_once, write_json
from _study import BASELINE, Study, load_study, run_config, run_folder
from _summary import summarise, table, verdict

COLUMNS = ('data_set', 'arm', 'seed', 'metric', 'value', 'seconds', 'config_sha256', 'versions')
Run = Tuple[str, str, int]  # data set, arm, seed
PARENT = 'MMAFAN_STUDY_PROCESS'  # the environment variable that tells a run who started it


def parse_args(argv=None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Train and compare the arms of a study.')
    parser.add_argument('study', help='study file')
    parser.add_argument('--work-dir', help='where runs and results go (default: work_dirs/studies/<name of the study>)')
    parser.add_argument('--jobs', type=int,
                        help='runs at the same time (default: one for each GPU, or else core, four at the most)')
    parser.add_argument('--threads', type=int, default=1, help='threads of torch on the CPU, in each run (default: 1)')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help=CFG_OPTIONS_HELP + '; in every arm')
    parser.add_argument('--run', nargs=3, metavar=('DATA_SET', 'ARM', 'SEED'), help=argparse.SUPPRESS)  # one, here
    args = parser.parse_args(argv)
    args.argv = sys.argv[1:] if argv is None else list(argv)
    if args.jobs is None:
        args.jobs = 1 if args.run else min(len(visible_devices()) or os.cpu_count() or 1, 4)
    for name in ('jobs', 'threads'):
        if getattr(args, name) < 1:
            stop(f'--{name} must be at least 1, got {getattr(args, name)}')
    return args


def train_one(study: Study, arm: str, seed: int, work_dir: str) -> None:
    """Train one run in this process, unless it is finished."""
    train_once(run_config(study, arm, seed, work_dir), study.identity, measures=study.measures)


def end_with_parent(parent: int) -> None:
    """End this process when the one that started it has ended, however that was: two must not train in one folder."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


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
                    [sys.executable, osp.abspath(__file__), *args.argv, '--run', name, arm, str(seed)],
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


def count_compute(study: Study, shares: Dict[str, float], work_dir: str) -> Dict[str, float]:
    """Count what the training of every arm computes, in trainings of the baseline; empty where that fails.

    Args:
        study: The study.
        shares: By arm, the share of the steps in which A-FAN was on, where it was not on in all of them.
        work_dir: Where the counts are kept.
    """
    from mmafan.analysis.arm import baseline_model
    counts = {}
    for name in study.arms:
        cfg = run_config(study, name, study.seeds[0], work_dir)
        folder = osp.join(work_dir, study.data_set, name)
        try:
            counts[name] = count_once(cfg, osp.join(folder, 'compute.json'))
            share = shares.get(name, 1.0)
            if share < 1 and 'afan' in cfg.model:
                cfg.model = baseline_model(cfg)[0]
                without = count_once(cfg, osp.join(folder, 'compute_without.json'))
                counts[name] = without + share * (counts[name] - without)
        except Exception as error:  # a model or a loader of any kind: the table is there without it
            print(f'what the arms compute is not counted: {name}: {type(error).__name__}: {error}', file=sys.stderr)
            return {}
    return {name: count / counts[BASELINE] for name, count in counts.items()}


def count_once(cfg: Any, path: str) -> float:
    """Count what a training computes, or read the count where it was made before."""
    from _cpu import adapt_to_cpu

    from mmafan.analysis import count_training_flops
    key = fingerprint(cfg, {})
    known = read_json(path)
    if known.get('fingerprint') != key:
        with quiet():
            adapt_to_cpu(cfg)
            known = dict(fingerprint=key, flops=count_training_flops(cfg))
        write_json(path, known)
    return known['flops']


def write_rows(studies: Sequence[Study], results: Dict[Run, Dict[str, Any]], path: str) -> None:
    """Write every run as a row."""
    rows: List[Tuple[Any, ...]] = [
        (study.data_set, arm, seed, metric, result['metrics'][metric], round(result['seconds'], 1),
         result['fingerprint'], ' '.join(f'{k}={v}' for k, v in result['versions'].items()))
        for study in studies for arm in study.arms for seed in study.seeds
        for result in [results.get((study.data_set, arm, seed))] if result for metric in study.metrics]
    from mmafan.storage import write_whole
    text = io.StringIO(newline='')
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def report(study: Study, results: Dict[Run, Dict[str, Any]], compute: Dict[str, float], work_dir: str) -> str:
    """Draw the results on one data set; return their table and what it says about the controls."""
    from mmafan.visualization import draw_arms
    by_metric = {metric: {arm: {seed: results[study.data_set, arm, seed]['metrics'][metric] for seed in study.seeds}
                          for arm in study.arms} for metric in study.metrics}
    values = by_metric[study.metric]
    rows, *further = (summarise(study, one, compute) for one in by_metric.values())
    draw_arms({name: list(runs.values()) for name, runs in values.items()}, study.metric,
              osp.join(work_dir, study.data_set, 'arms.png'), baseline=BASELINE)
    title = [f'{study.data_set}:'] if study.data_set else []
    laid_out = table(study, rows, dict(zip(study.also, further)))
    return '\n\n'.join(filter(None, [*title, laid_out, verdict(study, values)]))


def main(argv=None) -> None:
    """Train, measure, print."""
    args = parse_args(argv)
    if args.run:
        end_with_parent(int(os.environ[PARENT]))
        keep_folder()
    studies = load_study(args.study, args.cfg_options)
    work_dir = args.work_dir or osp.join('work_dirs', 'studies', studies[0].name)
    try:
        for study in studies:
            for arm in study.arms:  # a wrong arm is told before anything runs
                run_config(study, arm, study.seeds[0], work_dir)
    except Exception as error:  # whatever the Python of a config raises
        kind = '' if isinstance(error, (ValueError, TypeError, OSError)) else f'{type(error).__name__}: '
        stop(f'arms.{arm} of {args.study}{f" with {study.data_set}" if study.data_set else ""}: {kind}{error}')
    if args.run:
        import torch
        torch.set_num_threads(args.threads)
        name, arm, seed = args.run
        with disk_full_ends(DISK_FULL):
            train_one(next(study for study in studies if study.data_set == name), arm, int(seed), work_dir)
        return
    args.lock = hold_folder(work_dir)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with disk_full_ends(no_space(work_dir)):
            finish(studies, args, work_dir)
    except KeyboardInterrupt:
        print('\ninterrupted; the same command goes on from here')
        raise SystemExit(130)
    finally:
        args.lock.release()


def finish(studies: Sequence[Study], args: argparse.Namespace, work_dir: str) -> None:
    """Train what is not finished, count, print."""
    results = train_all(studies, args, work_dir)
    missing = sum(len(study.arms) * len(study.seeds) for study in studies) - len(results)
    if missing:
        stop(f'{missing} runs failed; those that did not are rows of {osp.join(work_dir, "rows.csv")}, and the same '
             'command goes on from here')
    texts = []
    for study in studies:
        shares = {arm: statistics.fmean(results[study.data_set, arm, seed].get(ATTACKED_SHARE, 1.0)
                                        for seed in study.seeds) for arm in study.arms}
        texts.append(report(study, results, count_compute(study, shares, work_dir), work_dir))
    text = '\n\n'.join(texts)
    with open(osp.join(work_dir, 'table.md'), 'w', encoding='utf-8') as file:
        file.write(text + '\n')
    print(f'\n{text}\n\nEvery run is a row of {osp.join(work_dir, "rows.csv")}.')


if __name__ == '__main__':
    main()
