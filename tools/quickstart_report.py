"""The text of the quickstart's report."""
from __future__ import annotations

import math
import os.path as osp
import statistics
from typing import Dict, List, Sequence

from quickstart_task import Task

TEXT = '''\
# Quickstart: {title} with and without A-FAN

{setting}, {epochs} epochs, {seeds} per arm. Arms with the same seed start from the same weights and see the same images
in the same order. Every {metrics} is that of the last epoch.

## Results

| | value | made by |
|---|---|---|
{rows}

{verdict}

## Runs

| arm | seed | {columns} | made by |
|---|---|{lines}---|
{runs}

## Training curves

Mean over seeds, with a band of one standard deviation. The training loss of A-FAN is the sum of its clean and
adversarial terms, so the two losses are no comparison.

![curves](curves.png)

{pictures}
This call took {seconds:.0f} s ({reused} runs were finished before), {versions}.
'''


def mean_and_deviation(values: Sequence[float]) -> str:
    """Write mean and unbiased standard deviation; a single value has none.

    Example:
        >>> mean_and_deviation([1.0, 3.0]), mean_and_deviation([1.0])
        ('2.00 ± 1.41', '1.00')
    """
    mean = f'{statistics.fmean(values):.2f}'
    return f'{mean} ± {statistics.stdev(values):.2f}' if len(values) > 1 else mean


def signed(values: Sequence[float]) -> str:
    """Write differences with their signs, and their mean and deviation.

    Example:
        >>> signed([0.5, -1.0])
        '-0.25 ± 1.06 (+0.50, -1.00)'
    """
    text = mean_and_deviation(values)
    sign = '' if text.startswith('-') else '+'
    return f'{sign}{text} ({", ".join(f"{v:+.2f}" for v in values)})'


def write_report(task: Task, work_dir: str, results: Dict[str, List[Dict]], cost: Dict, epochs: int, pictures: str,
                 seconds: float) -> str:
    """Write ``report.md`` and return its text.

    Args:
        task: The demo.
        work_dir: Folder of the demo; the pictures are there already.
        results: For each arm one result per seed, as ``quickstart_runs.train_run`` returns them.
        cost: What :func:`mmafan.analysis.measure_step_cost` found, as plain numbers.
        epochs: Length of every run.
        pictures: Sections about the task's own pictures.
        seconds: What this call of the demo took.
    """
    import mmengine
    import torch
    seeds = len(results['baseline'])
    reused = sum(r['reused'] for runs in results.values() for r in runs)
    trained = f'`python tools/quickstart.py {task.name} --seeds {seeds} --epochs {epochs}`'
    timed = f'`{task.cost_command}`'
    rows, differences = [], []
    for metric in task.metrics:
        baseline, afan = ([r['metrics'][metric.key] for r in results[arm]] for arm in ('baseline', 'afan'))
        differences.append([b - a for a, b in zip(baseline, afan)])
        rows += [
            (f'baseline: {metric.name}, % (mean ± standard deviation)', mean_and_deviation(baseline), trained),
            (f'A-FAN: {metric.name}, %', mean_and_deviation(afan), trained),
            (f'A-FAN minus baseline: {metric.name}, same seed, points', signed(differences[-1]), trained),
        ]
    tails = '; '.join(f'tap `{name}`: tau = {t["share"]:.2f}, {t["passes"]:.0f} passes'
                      for name, t in cost['tails'].items())
    milliseconds = [f'{cost["seconds"][arm] * 1e3:.1f}' for arm in ('baseline', 'afan')]
    rows += [
        ('measured cost of a step, A-FAN / baseline', f'{cost["ratios"]["afan_over_baseline"]:.2f}', timed),
        ('theoretical cost, 1 + N tau', f'{cost["theory"]:.2f} ({tails})', timed),
        ('median step, baseline and A-FAN, ms', ' and '.join(milliseconds), timed),
    ]
    names = [metric.name for metric in task.metrics]
    text = TEXT.format(
        title=task.title,
        setting=task.setting,
        epochs=epochs,
        seeds=f'{seeds} seeds' if seeds > 1 else '1 seed',
        metrics=' and '.join(names),
        columns=' | '.join(f'{name}, %' for name in names),
        lines='---|' * len(names),
        rows='\n'.join(f'| {what} | {value} | {how} |' for what, value, how in rows),
        verdict=verdict(differences[0]),
        runs='\n'.join(
            f'| {arm} | {seed} | {" | ".join(format(v, ".2f") for v in r["metrics"].values())} | `{r["command"]}` |'
            for arm, runs in results.items() for seed, r in enumerate(runs)),
        pictures=pictures,
        seconds=seconds,
        reused=f'{reused} of {2 * seeds}',
        versions=f'torch {torch.__version__}, mmengine {mmengine.__version__}, {torch.get_num_threads()} thread(s)')
    with open(osp.join(work_dir, 'report.md'), 'w', encoding='utf-8') as file:
        file.write(text)
    return text


def verdict(difference: Sequence[float]) -> str:
    """Say what the difference means, and what it does not."""
    limits = ('Few small images and few seeds: this demo shows that training runs and what it costs. It is no evidence '
              'for or against the method, which needs further controls: a longer baseline schedule of equal cost, '
              'random noise of equal size in place of the attack, step size 0, and the baseline at equal loss scale.')
    if len(difference) < 2:
        return 'One seed says nothing about a difference. ' + limits
    error = statistics.stdev(difference) / math.sqrt(len(difference))
    size = abs(statistics.fmean(difference))
    within = 'within' if size <= 2 * error else 'beyond'
    return f'The mean difference is {within} two standard errors of the seeds ({error:.2f} points). ' + limits
