"""Numbers of several layers side by side: shifts of statistics, margins."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

PathLike = Union[str, Path]


def draw_statistics_shift(layers: Mapping[str, Mapping[str, Any]], path: Optional[PathLike] = None,
                          title: str = '') -> Any:
    """Draw how far mean and standard deviation of the features move, layer by layer, in one panel each.

    Args:
        layers: By arm, by layer, a :class:`mmafan.analysis.statistics_shift.Shift`; the same layers in every arm.
        path: File to save to; its ending gives the format.
        title: Of the figure.

    Returns:
        The ``matplotlib.figure.Figure``. No window and no global state of matplotlib is touched.
    """
    names = list(next(iter(layers.values())))
    figure, panels = _panels(2, len(names))
    for panel, field, label in zip(panels, ('mean', 'deviation'), (
            'shift of the mean (clean standard deviations)', 'shift of the standard deviation (|log ratio|)')):
        for (arm, shifts), marker in zip(layers.items(), 'osD^v*'):
            panel.plot(range(len(names)), [getattr(shifts[name], field) for name in names], marker=marker, markersize=5,
                       linewidth=1.5, linestyle='--' if arm.startswith('noise') else '-', label=arm)
        _name_layers(panel, names)
        panel.set_ylim(bottom=0)
        panel.set_ylabel(label)
    _finish(figure, panels[0], path, title)
    return figure


def draw_margins(margins: Mapping[str, Mapping[str, Sequence[float]]], path: Optional[PathLike] = None,
                 title: str = '', norm: str = 'l2') -> Any:
    """Draw the margins of every layer, one mark for each checkpoint: median and quartiles over the samples.

    Args:
        margins: By checkpoint, by layer, the 25th, 50th and 75th percentile of the normalised distances.
        path: File to save to; its ending gives the format.
        title: Of the figure.
        norm: Norm of the distances, for the axis.

    Returns:
        The ``matplotlib.figure.Figure``. No window and no global state of matplotlib is touched.
    """
    names = list(next(iter(margins.values())))
    figure, panels = _panels(1, len(names))
    panel = panels[0]
    step = 0.6 / max(len(margins), 2)
    for index, (label, layers) in enumerate(margins.items()):
        low, middle, high = np.array([layers[name] for name in names], dtype=float).T
        places = np.arange(len(names)) + (index - (len(margins) - 1) / 2) * step
        panel.errorbar(places, middle, yerr=[middle - low, high - middle], fmt='osD^v*'[index % 6], markersize=5,
                       capsize=3, linewidth=1.5, label=label)
    panel.axhline(0, color='black', linewidth=0.8)
    _name_layers(panel, names)
    panel.set_ylabel(f'distance to the boundary ({norm}, spreads)')
    _finish(figure, panel, path, title)
    return figure


def _panels(count: int, num_layers: int) -> Tuple[Any, Sequence[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(max(4.2, 0.6 * num_layers + 1.5) * count, 4.2), dpi=120)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, count, squeeze=False)[0]


def _name_layers(panel: Any, names: Sequence[str]) -> None:
    panel.set_xticks(range(len(names)))
    panel.set_xticklabels(names, rotation=35, ha='right', rotation_mode='anchor', fontsize=8)
    panel.grid(alpha=0.3)


def _finish(figure: Any, panel: Any, path: Optional[PathLike], title: str) -> None:
    """Put the legend and the title above the panels, where they cover nothing."""
    handles, labels = panel.get_legend_handles_labels()
    columns = 4 if len(figure.axes) > 1 else 2
    rows = -(-len(labels) // columns)
    top = 1 - 0.055 * rows - (0.065 if title else 0)
    figure.tight_layout(rect=(0, 0, 1, top))
    figure.legend(handles, labels, loc='upper center', bbox_to_anchor=(0.5, 0.94 if title else 1.0), ncol=columns,
                  fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=9, y=0.985)
    if path is not None:
        figure.savefig(str(path))
