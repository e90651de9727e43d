"""Train a small model with and without A-FAN on data that needs no download, and report what came out.

A killed run may be started again: what is finished is not repeated.
"""
from __future__ import annotations

import argparse
import importlib
import os
import os.path as osp
import sys
import time
from typing import Any, Dict, Optional, Sequence, Set

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..arguments import require_positive
from ..configs import load_config
from ..errors import stop
from ..faults import working_in
from ..study.compute import measure_once
from ..study.recipe import Study, run_folder
from ..study.report import Run
from ..study.runner import here, train_all
from .report import write_report
from .task import ROOT, Task

COLUMNS = BarColumn(), TimeRemainingColumn(), TextColumn('{task.percentage:3.0f}%  {task.description}', markup=False)
TASKS = ('classification', 'detection', 'segmentation')  # each is the TASK of a module of that name


def listed(word: str) -> str:
    """List the demos' names, with this word before the last."""
    return f'{", ".join(TASKS[:-1])} {word} {TASKS[-1]}'


def load_task(name: str) -> Task:
    """Return a demo by its name."""
    if name not in TASKS:
        stop(f'there is no demo {name!r}: the demos are {listed("and")}')
    return importlib.import_module(f'.{name}', __package__).TASK


def draw_training(task: Task, study: Study, work_dir: str) -> None:
    """Draw loss and first metric of all runs."""
    from ...visualization import draw_curves
    metric = task.metrics[0]
    runs = {arm.title: [run_folder(study, work_dir, name, seed) for seed in study.seeds]
            for name, arm in task.arms.items()}
    draw_curves(runs, ('loss', metric.key), {metric.key: metric.axis, 'loss': 'training loss (all terms)'},
                {metric.key: 'epoch', 'loss': 'iteration'}, osp.join(work_dir, 'curves.png'))


def run_demo(task: Task, work_dir: str, seeds: int, epochs: int) -> str:
    """Train all runs, measure, draw and write ``report.md``; return the report."""
    import torch
    begin = time.monotonic()
    # So small a network gains little from a second thread, and loses all of it where another program runs.
    torch.set_num_threads(1)
    os.makedirs(work_dir, exist_ok=True)
    study = task.study(seeds, epochs)
    costs = {name: arm.epoch_cost * arm.num_epochs(epochs) for name, arm in task.arms.items()}
    screen = Console(file=sys.stdout)  # what trainings print is held back, but not the bar
    with Progress(*COLUMNS, console=screen, refresh_per_second=1, redirect_stdout=False, redirect_stderr=False,
                  disable=not screen.is_terminal) as progress:
        progress.add_task('', total=seeds * sum(costs.values()))
        [bar] = progress.tasks
        begun: Set[Run] = set()
        shown = -1

        def leave_out(amount: float) -> None:
            if amount:
                progress.update(bar.id, total=(bar.total or 0) - amount)

        def show(run: Run, epoch: int, loss: float) -> None:
            nonlocal shown
            arm = task.arms[run[1]]
            if run not in begun:  # which goes on where it was killed
                begun.add(run)
                leave_out((epoch - 1) * arm.epoch_cost)
            progress.update(bar.id, advance=arm.epoch_cost, description=f'{arm.title}, seed {run[2] + 1} of {seeds}, '
                            f'epoch {epoch} of {arm.num_epochs(epochs)}, loss {loss:.3f}')
            if progress.disable and int(bar.percentage / 10) != shown:  # a line for every tenth
                shown = int(bar.percentage / 10)
                screen.print(*(column.render(bar) for column in COLUMNS[1:]), soft_wrap=True)

        def tell(run: Run, found: Dict[str, Any], count: str) -> None:
            leave_out(costs[run[1]] * found['reused'])

        results = train_all([study], work_dir, lambda runs: here(runs, study, work_dir, show), tell)
    print('measuring the cost of a step and drawing pictures ...', flush=True)
    cfg = load_config(osp.join(ROOT, str(task.arms['afan'].config)))
    cost = measure_once(cfg, task.cost_repeats, osp.join(work_dir, 'cost.json'))
    draw_training(task, study, work_dir)
    pictures = task.draw(task, study, work_dir)
    return write_report(task, study, work_dir, results, cost, epochs, pictures, time.monotonic() - begin)


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
    require_positive(args, 'seeds', 'epochs')
    with working_in(args.work_dir):
        report = run_demo(task, args.work_dir, args.seeds, args.epochs)
    print('\n' + report.split('\n## ', 2)[1].split('\n', 1)[1].strip())
    print(f'\nThe whole report, with curves and pictures: {osp.join(args.work_dir, "report.md")}, '
          f'and as one page {osp.join(args.work_dir, "report.html")}')
