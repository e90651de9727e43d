"""The text of the quickstart's report."""
from __future__ import annotations

import os.path as osp
import statistics
from typing import Any, Dict, List, Sequence

from ..page import write_page
from ..study.recipe import Study, run_folder
from ..study.report import Run
from ..study.runs import ATTACKED_SHARE
from ..study.statistics import interval
from .task import Task

TEXT = '''\
# Quickstart: {title} with and without A-FAN

{setting}, {epochs} epochs, {seeds} per arm. Runs with the same seed start from the same weights and see the same images
in the same order. Every value is that of the last epoch.

## Results

| arm | epochs | {columns} | difference to the baseline | A-FAN minus this arm | made by |
|---|---|{lines}---|---|---|
{rows}

Means ± standard deviations in %; mean differences of {compared} between runs of the same seed in points, ± half their
95 % interval (Student's t).

{verdict} {limits}

## Cost

| | value | made by |
|---|---|---|
{costs}

## Runs

| arm | seed | {columns} | made by |
|---|---|{lines}---|
{runs}

## Training curves

Mean over seeds, with a band of one standard deviation. The training loss of A-FAN is the sum of its clean and
adversarial terms, so it does not compare with the loss of a baseline.

![curves](curves.png)

{pictures}
This call took {seconds:.0f} s ({reused} of {count} runs were finished before), {versions}.
'''


def mean_and_deviation(values: Sequence[float]) -> str:
    """Write mean and unbiased standard deviation; a single value has none.

    Example:
        >>> mean_and_deviation([1.0, 3.0]), mean_and_deviation([1.0])
        ('2.00 ± 1.41', '1.00')
    """
    mean = f'{statistics.fmean(values):.2f}'
    return f'{mean} ± {statistics.stdev(values):.2f}' if len(values) > 1 else mean


def mean_and_interval(differences: Sequence[float]) -> str:
    """Write the mean of differences with half its 95 % interval; none are empty, a single one has no interval.

    Example:
        >>> mean_and_interval([1.0, 2.0, 3.0]), mean_and_interval([-1.0]), mean_and_interval([])
        ('+2.00 ± 2.48', '-1.00', '')
    """
    if not differences:
        return ''
    mean = f'{statistics.fmean(differences):+.2f}'
    return f'{mean} ± {interval(differences):.2f}' if len(differences) > 1 else mean


def write_report(task: Task, study: Study, work_dir: str, results: Dict[Run, Dict[str, Any]], cost: Dict[str, Any],
                 epochs: int, pictures: str, seconds: float) -> str:
    """Write ``report.md``, and the same as one page, ``report.html``; return its text.

    Args:
        task: The demo.
        study: Of the demo.
        work_dir: Folder of the demo; the pictures are there already.
        results: Of every run, as the study's runner returns them.
        cost: What :func:`mmafan.analysis.measure_step_cost` found, as plain numbers.
        epochs: Length of a run of the baseline.
        pictures: Sections about the task's own pictures.
        seconds: What this call of the demo took.
    """
    import mmengine
    import torch
    seeds = len(study.seeds)
    trained = f'`python tools/quickstart.py {task.name} --seeds {seeds} --epochs {epochs}`'
    percent = {arm: {metric.key: [metric.factor * results['', arm, seed]['metrics'][metric.key] for seed in study.seeds]
                     for metric in task.metrics} for arm in task.arms}

    def differences(arm: str, other: str) -> List[float]:
        pairs = zip(percent[arm][study.metric], percent[other][study.metric])
        return [one - another for one, another in pairs if arm != other]

    rows = [[arm.title, arm.num_epochs(epochs), *map(mean_and_deviation, percent[name].values()),
             mean_and_interval(differences(name, 'baseline')), mean_and_interval(differences('afan', name)), trained]
            for name, arm in task.arms.items()]
    runs = [[task.arms[name].title, seed, *(f'{values[number]:.2f}' for values in percent[name].values()),
             f'`{train_command(study, name, seed, work_dir)}`']
            for name in task.arms for number, seed in enumerate(study.seeds)]
    text = TEXT.format(
        title=task.title,
        setting=task.setting,
        epochs=epochs,
        seeds=f'{seeds} seeds' if seeds > 1 else '1 seed',
        columns=' | '.join(metric.name for metric in task.metrics),
        lines='---|' * len(task.metrics),
        compared=task.metrics[0].name,
        rows=lay_out(rows),
        verdict=verdict({task.arms[name].title: differences('afan', name) for name in task.arms if name != 'afan'}),
        limits=task.limits,
        costs=lay_out(cost_rows(task, results, cost, trained)),
        runs=lay_out(runs),
        pictures=pictures,
        seconds=seconds,
        reused=sum(run['reused'] for run in results.values()),
        count=len(runs),
        versions=f'torch {torch.__version__}, mmengine {mmengine.__version__}, {torch.get_num_threads()} thread(s)')
    with open(osp.join(work_dir, 'report.md'), 'w', encoding='utf-8') as file:
        file.write(text)
    write_page(text, osp.join(work_dir, 'report.html'))
    return text


def train_command(study: Study, arm: str, seed: int, work_dir: str) -> str:
    """Return the command that trains one run."""
    options = {'randomness.seed': seed, **study.arms[arm].options}
    return ' '.join(['python tools/train.py', str(study.arms[arm].config), '--work-dir',
                     run_folder(study, work_dir, arm, seed), '--resume --cfg-options',
                     *(f'{key}={value}' for key, value in options.items())])


def lay_out(rows: Sequence[Sequence]) -> str:
    """Write the rows of a table."""
    return '\n'.join(f'| {" | ".join(map(str, row))} |' for row in rows)


def cost_rows(task: Task, results: Dict[Run, Dict[str, Any]], cost: Dict[str, Any], trained: str) -> List[List[str]]:
    """Say what A-FAN costs: in a step in which it is on, and over a run, in which it is on in a part of the steps."""
    timed = f'`{task.cost_command}`'
    suffixes = '; '.join(f'tap `{name}`: tau = {t["share"]:.2f}, {t["passes"]:.0f} passes'
                         for name, t in cost['suffixes'].items())
    milliseconds = [f'{cost["seconds"][arm] * 1e3:.1f}' for arm in ('baseline', 'afan')]
    ratio = cost['ratios']['afan_over_baseline']
    share = statistics.fmean(found[ATTACKED_SHARE] for run, found in results.items() if run[1] == 'afan')
    return [
        ['measured cost of a step with A-FAN on, A-FAN / baseline', f'{ratio:.2f}', timed],
        ['theoretical cost of it, 1 + N tau', f'{cost["theory"]:.2f} ({suffixes})', timed],
        ['median step, baseline and A-FAN, ms', ' and '.join(milliseconds), timed],
        [f'{ATTACKED_SHARE} in the runs of A-FAN', f'{share:.2f}', trained],
        ['cost of a run, A-FAN / baseline', f'{1 + share * (ratio - 1):.2f}', f'{timed}, {trained}'],
    ]


def verdict(differences: Dict[str, Sequence[float]]) -> str:
    """Say whether A-FAN is above every other arm beyond chance.

    Args:
        differences: A-FAN minus an arm, one value per seed, by the title of the arm.

    Example:
        >>> verdict({'baseline': [1.0, 2.0, 3.0], 'noise': [4.0, 4.5, 5.0]})
        'A-FAN is not above every other arm beyond chance: its 95 % interval to baseline is not above 0.'
        >>> verdict({'baseline': [3.0, 2.0, 3.0], 'noise': [4.0, 4.5, 5.0]})
        'A-FAN is above every other arm (baseline, noise) beyond chance: each 95 % interval is above 0.'
    """
    if min(map(len, differences.values())) < 2:
        return 'One seed says nothing about chance.'
    missed = [arm for arm, values in differences.items() if statistics.fmean(values) <= interval(values)]
    if missed:
        return ('A-FAN is not above every other arm beyond chance: its 95 % interval to '
                f'{" and to ".join(missed)} is not above 0.')
    return f'A-FAN is above every other arm ({", ".join(differences)}) beyond chance: each 95 % interval is above 0.'
