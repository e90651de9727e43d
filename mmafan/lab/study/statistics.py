"""What a study found: means, paired differences with their intervals, a verdict, a table."""
from __future__ import annotations

import math
import statistics
from typing import Any, Dict, Iterable, List, Optional, Sequence

from .recipe import BASELINE, Study

CONFIDENCE = 0.95


def interval(values: Sequence[float]) -> float:
    """Return half the width of the 95 % confidence interval of the mean, by Student's t distribution.

    Example:
        >>> round(interval([1.0, 2.0, 3.0]), 3)  # 4.303 / sqrt(3)
        2.484
    """
    from scipy.stats import t
    count = len(values)
    return float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * statistics.stdev(values) / math.sqrt(count)


def summarise(study: Study, results: Dict[str, Dict[int, float]], compute: Dict[str, float]) -> List[Dict[str, Any]]:
    """Compare every arm with the baseline.

    Args:
        study: The study.
        results: The metric by arm and seed.
        compute: What each arm's training computes, in trainings of the baseline; arms that are missing have none.

    Returns:
        For each arm ``arm``, ``runs``, ``mean``, ``deviation`` (unbiased; None for one run), ``difference`` (mean of
        the paired differences to the baseline), ``interval`` (of the difference: half its 95 % confidence interval) and
        ``compute``.
    """
    rows = []
    for name in study.arms:
        values = list(results[name].values())
        pairs = [value - results[BASELINE][seed] for seed, value in results[name].items()
                 if seed in results[BASELINE]]
        compared = name != BASELINE and bool(pairs)
        rows.append(dict(
            arm=name, runs=len(values), mean=statistics.fmean(values) if values else None,
            deviation=statistics.stdev(values) if len(values) > 1 else None,
            difference=statistics.fmean(pairs) if compared else None,
            interval=interval(pairs) if compared and len(pairs) > 1 else None, compute=compute.get(name)))
    return rows


def verdict(study: Study, results: Dict[str, Dict[int, float]]) -> str:
    """Say, where the study has controls, which arms beat the baseline and all of them.

    Args:
        study: The study; higher values of its metric are better.
        results: The metric by arm and seed.

    Returns:
        A line for every other arm with that mean of its paired differences to a control whose 95 % interval reaches
        lowest; it beats all where each of these intervals lies above 0. Empty where there are no controls.
    """
    controls = [BASELINE, *(name for name, arm in study.arms.items() if arm.control and name != BASELINE)]
    if len(controls) == 1:
        return ''
    form = number_form(value for runs in results.values() for value in runs.values())
    lines = [f'Against {", ".join(controls)}, the worst case over the controls:']
    for name in study.arms:
        if name in controls:
            continue
        pairs = {control: [value - results[control][seed] for seed, value in results[name].items()
                           if seed in results[control]] for control in controls}
        means = {control: statistics.fmean(values) for control, values in pairs.items()}
        half = {control: interval(values) if len(values) > 1 else None for control, values in pairs.items()}
        least = min(means, key=lambda control: means[control] - (half[control] or 0))
        spread = '' if half[least] is None else f' ± {half[least]:{form}}'
        sure = all(spread is not None and means[control] > spread for control, spread in half.items())
        word = 'beats all' if sure else (
            'above all, not beyond chance' if min(means.values()) > 0 else 'does not beat all')
        lines.append(f'- {name}: {means[least]:+{form}}{spread} to {least}: {word}')
    return '\n'.join(lines)


def number_form(values: Iterable[Optional[float]]) -> str:
    """Return the format of values and differences: two digits for percents, four for metrics from 0 to 1."""
    return '.4f' if all(value is None or abs(value) <= 1 for value in values) else '.2f'


def table(study: Study, rows: Sequence[Dict[str, Any]],
          further: Optional[Dict[str, Sequence[Dict[str, Any]]]] = None) -> str:
    """Lay the summary out as a markdown table.

    Args:
        study: The study.
        rows: Of :func:`summarise`, for its metric.
        further: The same for every metric of ``study.also``, each a column: mean, difference and its interval.
    """

    def number(value: Optional[float], form: str = '.2f') -> str:
        return '' if value is None else format(value, form)

    def difference(row: Dict[str, Any], form: str) -> str:
        spread = '' if row['interval'] is None else f' ± {row["interval"]:{form}}'
        return number(row['difference'], f'+{form}') + spread

    form = number_form(row['mean'] for row in rows)
    columns = ['arm', 'runs', study.metric, 'standard deviation', 'difference to the baseline (95 % interval)',
               'compute']
    body = [[row['arm'], row['runs'], number(row['mean'], form), number(row['deviation'], form), difference(row, form),
             number(row['compute'])] for row in rows]
    for metric, others in (further or {}).items():
        columns.append(metric)
        form = number_form(row['mean'] for row in others)
        for cells, row in zip(body, others):
            own = difference(row, form)
            cells.append(number(row['mean'], form) + (f' ({own})' if own else ''))
    lines = [columns, ['---'] * len(columns), *body]
    return '\n'.join('|---' * len(columns) + '|' if line[0] == '---' else f'| {" | ".join(map(str, line))} |'
                     for line in lines)
