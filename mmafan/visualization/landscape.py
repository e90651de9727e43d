"""Loss landscapes as contours."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, Union

import numpy as np


def draw_landscape(surfaces: Mapping[str, np.ndarray], coordinates: Sequence[float],
                   path: Optional[Union[str, Path]] = None, num_levels: int = 16) -> Any:
    """Draw one panel of contours for each checkpoint, all on one logarithmic scale of colours.

    Args:
        surfaces: By checkpoint, losses of shape ``(P, P)``, ``[i, j]`` at ``(a_i, b_j)``; what is not finite is left
            white.
        coordinates: Values of a and b, P of them.
        path: File to save to; its ending gives the format.
        num_levels: Number of contours.

    Returns:
        The ``matplotlib.figure.Figure``. No window and no global state of matplotlib is touched.

    Raises:
        ValueError: If no loss is finite.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import BoundaryNorm
    from matplotlib.figure import Figure
    finite = np.concatenate([s[np.isfinite(s)] for s in surfaces.values()])
    if not len(finite):
        raise ValueError('surfaces must hold at least one finite loss')
    low = max(float(finite.min()), float(finite.max()) * 1e-6, 1e-12)
    levels = np.geomspace(low, max(float(finite.max()), low * 1.01), num_levels)
    figure = Figure(figsize=(3.6 * len(surfaces) + 1.2, 3.7), dpi=120)
    FigureCanvasAgg(figure)
    figure.set_layout_engine('constrained')
    panels = figure.subplots(1, len(surfaces), squeeze=False)[0]
    filled: Any = None
    for panel, (label, surface) in zip(panels, surfaces.items()):
        shown = np.ma.masked_invalid(np.clip(surface, levels[0], levels[-1])).T  # rows of a picture are its y
        filled = panel.contourf(coordinates, coordinates, shown, levels, cmap='viridis',
                                norm=BoundaryNorm(levels, 256), extend='neither')
        panel.contour(coordinates, coordinates, shown, levels, colors='white', linewidths=0.4)
        panel.plot(0, 0, marker='*', color='red', markersize=9)
        centre = surface[len(coordinates) // 2, len(coordinates) // 2]
        panel.set_title(f'{label}\nloss at the centre {centre:.4g}', fontsize=9)
        panel.set_xlabel('a (direction 1)')
        panel.set_aspect('equal')
    panels[0].set_ylabel('b (direction 2)')
    bar = figure.colorbar(filled, ax=list(panels), label='loss', format='%.2g', ticks=levels[::3])
    bar.ax.minorticks_off()
    if path is not None:
        figure.savefig(str(path))
    return figure
