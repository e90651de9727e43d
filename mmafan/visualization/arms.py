"""The results of the arms of a study, seed by seed."""
from __future__ import annotations

from pathlib import Path
from typing import Mapping, Sequence, Union

import numpy as np


def draw_arms(values: Mapping[str, Sequence[float]], metric: str, path: Union[str, Path],
              baseline: str = 'baseline') -> None:
    """Draw every run as a dot, and the mean of each arm as a bar, in the order given, from the top.

    Args:
        values: The metric of every run, by arm.
        metric: Name of the metric, for the axis.
        path: Picture file; its folder is made.
        baseline: The arm whose mean is drawn as a line through all others.
    """
    from matplotlib.figure import Figure
    figure = Figure(figsize=(7, 1.2 + 0.32 * len(values)))
    axes = figure.subplots()
    for row, (arm, runs) in enumerate(values.items()):
        colour = 'tab:grey' if arm == baseline else 'tab:blue'
        axes.plot(runs, np.full(len(runs), row), 'o', color=colour, markersize=4, alpha=0.5, clip_on=False)
        axes.plot([np.mean(runs)] * 2, [row - 0.3, row + 0.3], '-', color=colour, linewidth=2.5)
    if baseline in values:
        axes.axvline(float(np.mean(values[baseline])), color='tab:grey', linewidth=0.8, linestyle='--', zorder=0)
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_xlabel(f'{metric}, each run a dot, the mean a bar')
    axes.grid(axis='x', linewidth=0.3)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches='tight')
