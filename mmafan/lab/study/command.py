"""Train the arms of a study with several seeds, several runs at a time, and compare them with its baseline.

A study file names a config, the arms (what each overrides), the seeds, the metric and the data sets;
configs/studies/README.md describes it. Runs of the same seed start from the same weights, where the arms have the same
ones, and see the same samples in the same order. A killed study goes on where it was when the same command is called
again. Beside the table it keeps every run as a row of rows.csv, a picture, and both as one page, report.html. Runs at
the same time share the GPUs in turn.
"""
from __future__ import annotations

import argparse
import functools
import os
import os.path as osp
import signal
import statistics
import sys
from typing import Any, Dict, Optional, Sequence

from ..arguments import CFG_OPTIONS_HELP, CfgOptions, require_positive
from ..errors import stop
from ..faults import DISK_FULL, disk_full_ends, keep_folder, working_in
from ..page import write_page
from ..processes import own_command
from .compute import count_compute
from .recipe import Study, load_study, run_config
from .report import Run, report
from .runner import PARENT, end_with_parent, in_processes, line_of, train_all, train_one, visible_devices
from .runs import ATTACKED_SHARE


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
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
    require_positive(args, 'jobs', 'threads')
    return args


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Train, measure, print."""
    args = parse_args(argv)
    if args.run:
        end_with_parent(int(os.environ[PARENT]))
        keep_folder()
    studies = load_study(args.study, args.cfg_options)
    by_name = {study.data_set: study for study in studies}
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
            train_one(by_name[name], arm, int(seed), work_dir)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def tell(run: Run, found: Dict[str, Any], count: str) -> None:
        if not found['reused']:
            print(line_of(by_name[run[0]], run, found, count), flush=True)

    with working_in(work_dir) as lock:
        train = functools.partial(in_processes, command=[*own_command('study'), *args.argv], jobs=args.jobs,
                                  threads=args.threads, lock=lock)
        finish(studies, train_all(studies, work_dir, train, tell), work_dir)


def finish(studies: Sequence[Study], results: Dict[Run, Dict[str, Any]], work_dir: str) -> None:
    """Compare what has been trained, count what it computes, draw, print."""
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
    pictures = [f'{text}\n\n![each run of an arm]({osp.join(study.data_set, "arms.png")})'
                for text, study in zip(texts, studies)]
    write_page('\n\n'.join([f'# Study {studies[0].name}', *pictures]), osp.join(work_dir, 'report.html'))
    print(f'\n{text}\n\nEvery run is a row of {osp.join(work_dir, "rows.csv")}; '
          f'one page with the pictures is {osp.join(work_dir, "report.html")}.')
