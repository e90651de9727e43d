"""The text of the quickstart's report."""
from __future__ import annotations

import math
import os.path as osp
import statistics
from typing import Dict, List, Sequence

COST_COMMAND = ('python tools/analysis_tools/step_cost.py configs/mmpretrain/resnet_afan_digits.py --no-published '
                '--no-memory --repeats 15 --threads 1')
QUICKSTART = 'python tools/quickstart.py'
TEXT = '''\
# Quickstart: handwritten digits with and without A-FAN

A small stock ResNet-18 (16 channels in its first stage) on 200 training and 898 test images of scikit-learn's
handwritten digits, {epochs} epochs, {seeds} per arm. Arms with the same seed start from the same weights and see the
same images in the same order. Accuracies are those of the last epoch.

## Results

| | value | made by |
|---|---|---|
{rows}

{verdict}

## Runs

| arm | seed | test accuracy, % | made by |
|---|---|---|---|
{runs}

## Training curves

Mean over seeds, with a band of one standard deviation. The training loss of A-FAN is the sum of its clean and
adversarial terms, so the two losses are no comparison.

![curves](curves.png)

## Features

Four test images: the clean feature at the tap of the trained A-FAN model of seed 0, the feature perturbed by every
strength, and the clean feature with the statistics of the perturbed one re-injected. For each image the channel that
moves most, and beside it the difference from the clean feature.

![features](features.png)

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


def write_report(work_dir: str, results: Dict[str, List[Dict]], cost: Dict, epochs: int, seconds: float) -> str:
    """Write ``report.md`` and return its text.

    Args:
        work_dir: Folder of the demo; the pictures are there already.
        results: For each arm one result per seed, as ``quickstart.train_run`` returns them.
        cost: What :func:`mmafan.analysis.measure_step_cost` found, as plain numbers.
        epochs: Length of every run.
        seconds: What this call of the demo took.
    """
    import mmengine
    import torch
    accuracy = {arm: [r['accuracy'] for r in runs] for arm, runs in results.items()}
    difference = [b - a for a, b in zip(accuracy['baseline'], accuracy['afan'])]
    seeds = len(difference)
    reused = sum(r['reused'] for runs in results.values() for r in runs)
    trained = f'`{QUICKSTART} --seeds {seeds} --epochs {epochs}`'
    timed = f'`{COST_COMMAND}`'
    tails = '; '.join(f'tap `{name}`: tau = {t["share"]:.2f}, {t["passes"]:.0f} passes'
                      for name, t in cost['tails'].items())
    milliseconds = [f'{cost["seconds"][arm] * 1e3:.1f}' for arm in ('baseline', 'afan')]
    rows = [
        ('baseline: test accuracy, % (mean ± standard deviation)', mean_and_deviation(accuracy['baseline']), trained),
        ('A-FAN: test accuracy, %', mean_and_deviation(accuracy['afan']), trained),
        ('A-FAN minus baseline, same seed, points', signed(difference), trained),
        ('measured cost of a step, A-FAN / baseline', f'{cost["ratios"]["afan_over_baseline"]:.2f}', timed),
        ('theoretical cost, 1 + N tau', f'{cost["theory"]:.2f} ({tails})', timed),
        ('median step, baseline and A-FAN, ms', ' and '.join(milliseconds), timed),
    ]
    text = TEXT.format(
        epochs=epochs,
        seeds=f'{seeds} seeds' if seeds > 1 else '1 seed',
        rows='\n'.join(f'| {what} | {value} | {how} |' for what, value, how in rows),
        verdict=verdict(difference),
        runs='\n'.join(f'| {arm} | {seed} | {r["accuracy"]:.2f} | `{r["command"]}` |'
                       for arm, runs in results.items() for seed, r in enumerate(runs)),
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
