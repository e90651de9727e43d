"""Differences to a baseline, setting by setting."""
from __future__ import annotations

from pathlib import Path
from typing import Mapping, Sequence, Union


def draw_differences(values: Mapping[str, Mapping[str, Sequence[float]]], metric: str, path: Union[str, Path]) -> None:
    """Draw a row for each setting, from the top, and in it a mark for every run of every method.

    Args:
        values: By setting and method, the differences to the baseline of that setting, one for each run; a method may
            be missing in a setting.
        metric: What differs, and its unit, for the axis.
        path: Picture file; its folder is made.
    """
    from matplotlib.figure import Figure
    figure = Figure(figsize=(7, 1.4 + 0.36 * len(values)))
    axes = figure.subplots()
    methods = list(dict.fromkeys(method for found in values.values() for method in found))
    for number, method in enumerate(methods):
        points = [(run, row) for row, found in enumerate(values.values()) for run in found.get(method, ())]
        axes.plot(*zip(*points), 'osD^'[number % 4], color=f'C{number}', markersize=6, alpha=0.8, label=method)
    axes.axvline(0, color='tab:grey', linewidth=1)
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_xlabel(metric)
    axes.grid(axis='x', linewidth=0.3)
    axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.14 - 0.5 / len(values)), ncol=len(methods), frameon=False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches='tight')
