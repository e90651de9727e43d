"""Train a small model with and without A-FAN on data that needs no download, and report what came out.

A killed run may be started again: what is finished is not repeated.
"""
from __future__ import annotations

import argparse
import importlib
import os
import os.path as osp
import time
from typing import Dict, List, Optional, Sequence

from ..errors import stop
from ..faults import disk_full_ends, hold_folder, no_space
from ..progress import Progress
from .report import write_report
from .runs import measure_cost, run_folder, train_run
from .task import Task

TASKS = ('classification', 'detection', 'segmentation')  # each is the TASK of a module of that name


def listed(word: str) -> str:
    """List the demos' names, with this word before the last."""
    return f'{", ".join(TASKS[:-1])} {word} {TASKS[-1]}'


def load_task(name: str) -> Task:
    """Return a demo by its name."""
    if name not in TASKS:
        stop(f'there is no demo {name!r}: the demos are {listed("and")}')
    return importlib.import_module(f'.{name}', __package__).TASK


def draw_training(task: Task, work_dir: str, seeds: int) -> None:
    """Draw loss and first metric of all runs."""
    from ...visualization import draw_curves
    metric = task.metrics[0]
    runs = {arm.title: [run_folder(work_dir, name, seed) for seed in range(seeds)] for name, arm in task.arms.items()}
    draw_curves(runs, ('loss', metric.key), {metric.key: metric.axis, 'loss': 'training loss (all terms)'},
                {metric.key: 'epoch', 'loss': 'iteration'}, osp.join(work_dir, 'curves.png'))


def run_demo(task: Task, work_dir: str, seeds: int, epochs: int, progress: Optional[Progress] = None) -> str:
    """Train all runs, measure, draw and write ``report.md``; return the report."""
    import torch
    begin = time.monotonic()
    # So small a network gains little from a second thread, and loses all of it where another program runs.
    torch.set_num_threads(1)
    os.makedirs(work_dir, exist_ok=True)
    task.prepare()
    lengths = {name: arm.num_epochs(epochs) for name, arm in task.arms.items()}
    progress = progress or Progress(seeds * sum(arm.epoch_cost * lengths[name] for name, arm in task.arms.items()))
    results: Dict[str, List[Dict]] = {name: [] for name in task.arms}
    for seed in range(seeds):
        for name, arm in task.arms.items():
            last = 0

            def show(epoch: int, loss: float) -> None:
                nonlocal last
                if last == 0:
                    progress.skip((epoch - 1) * arm.epoch_cost)
                text = f'{arm.title}, seed {seed + 1} of {seeds}, epoch {epoch} of {lengths[name]}, loss {loss:.3f}'
                progress.advance(arm.epoch_cost, text)
                last = epoch

            results[name].append(train_run(task, name, seed, epochs, work_dir, show))
            progress.skip((lengths[name] - last) * arm.epoch_cost)
    progress.close()
    print('measuring the cost of a step and drawing pictures ...', flush=True)
    cost = measure_cost(task, work_dir)
    draw_training(task, work_dir, seeds)
    pictures = task.draw(task, work_dir, epochs)
    return write_report(task, work_dir, results, cost, epochs, pictures, time.monotonic() - begin)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run a demo."""
    parser = argparse.ArgumentParser(description='Train a small model with and without A-FAN, and report.')
    parser.add_argument('task', nargs='?', default='classification', help=f'{listed("or")} (default: the first)')
    parser.add_argument('--work-dir', help='where the report goes (default: work_dirs/quickstart for classification, '
                        'work_dirs/quickstart_<task> for the others)')
    parser.add_argument('--seeds', type=int, help='runs of each arm (default: 5 for classification, 3 for detection, '
                        '2 for segmentation)')
    parser.add_argument('--epochs', type=int, help='epochs of a run of the baseline (default: 60 for classification, '
                        '6 for detection, 12 for segmentation)')
    args = parser.parse_args(argv)
    task = load_task(args.task)
    for name in ('seeds', 'epochs', 'work_dir'):
        if getattr(args, name) is None:
            setattr(args, name, getattr(task, name))
    for name in ('seeds', 'epochs'):
        if getattr(args, name) < 1:
            stop(f'--{name} must be at least 1, got {getattr(args, name)}')
    lock = hold_folder(args.work_dir)
    try:
        with disk_full_ends(no_space(args.work_dir)):
            report = run_demo(task, args.work_dir, args.seeds, args.epochs)
    except KeyboardInterrupt:
        print('\ninterrupted; the same command goes on from here')
        raise SystemExit(130)
    finally:
        lock.release()
    print('\n' + report.split('\n## ', 2)[1].split('\n', 1)[1].strip())
    print(f'\nThe whole report, with curves and pictures: {osp.join(args.work_dir, "report.md")}, '
          f'and as one page {osp.join(args.work_dir, "report.html")}')
