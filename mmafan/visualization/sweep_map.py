"""The result of a sweep over taps and step sizes as a map of colours."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, Union


def draw_sweep(cells: Sequence[Mapping[str, Any]],
               metric: str,
               step_unit: str = 'absolute',
               path: Optional[Union[str, Path]] = None) -> Any:
    """Draw the paired difference to the baseline for every tap (row) and step size (column), one panel per strength.

    A cell holds the mean difference and, below it, half its 95 % confidence interval; both are bold where the interval
    leaves 0 out. All panels share one scale of colours, symmetric around 0.

    Args:
        cells: Each with ``tap``, ``step_size``, ``strength`` (None: as configured), ``difference`` and ``interval``
            (None for one seed).
        metric: Its name, for the scale.
        step_unit: What a step size of 1 is.
        path: File to save to; its ending gives the format.

    Returns:
        The ``matplotlib.figure.Figure``. No window and no global state of matplotlib is touched.

    Raises:
        ValueError: If there is no cell.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    if not cells:
        raise ValueError('cells must hold at least one cell')
    taps, steps, strengths = (list(dict.fromkeys(cell[key] for cell in cells))
                              for key in ('tap', 'step_size', 'strength'))
    limit = max(abs(cell['difference']) for cell in cells) or 1.0
    name_width = 0.085 * max(len(tap) for tap in taps)
    figure = Figure(figsize=((name_width + 0.9 * len(steps) + 0.4) * len(strengths) + 1.6, 0.62 * len(taps) + 1.5),
                    dpi=140, layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(strengths), squeeze=False)[0]
    for panel, strength in zip(panels, strengths):
        values = np.full((len(taps), len(steps)), np.nan)
        for cell in cells:
            if cell['strength'] != strength:
                continue
            row, column = taps.index(cell['tap']), steps.index(cell['step_size'])
            values[row, column] = cell['difference']
            half = cell['interval']
            text = f'{cell["difference"]:+.2f}' + ('' if half is None else f'\n± {half:.2f}')
            clear = half is not None and abs(cell['difference']) > half
            dark = abs(cell['difference']) > 0.6 * limit
            panel.text(column, row, text, ha='center', va='center', fontsize=8, color='white' if dark else 'black',
                       fontweight='bold' if clear else 'normal')
        picture = panel.imshow(values, cmap='RdBu', vmin=-limit, vmax=limit, aspect='auto')
        panel.set_xticks(range(len(steps)))
        panel.set_xticklabels([f'{step:g}' for step in steps])
        panel.set_yticks(range(len(taps)))
        panel.set_yticklabels(taps)
        panel.set_xlabel(f'step size ({"standard deviations" if step_unit == "std" else "absolute"})')
        if strength is not None:
            panel.set_title(f'strength {strength:g}', fontsize=10)
    bar = figure.colorbar(picture, ax=list(panels))
    bar.set_label(f'{metric}: difference\nto the baseline', fontsize=8)
    if path is not None:
        figure.savefig(str(path))
    return figure
