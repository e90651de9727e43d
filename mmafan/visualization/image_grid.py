"""Images side by side."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, Union

import numpy as np


def draw_image_grid(columns: Mapping[str, Sequence[np.ndarray]], path: Optional[Union[str, Path]] = None) -> Any:
    """Draw columns of images with their titles, such as ground truth beside the predictions of two models.

    Args:
        columns: Title to images, uint8 RGB arrays of shape (H, W, 3), as many in every column.
        path: File to save to; its ending gives the format.

    Returns:
        The ``matplotlib.figure.Figure``. No window and no global state of matplotlib is touched.

    Raises:
        ValueError: If there is no image, or the columns have different lengths.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    lengths = {len(images) for images in columns.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f'columns must hold equally many images, at least one, got '
                         f'{ {title: len(images) for title, images in columns.items()} }')
    rows = lengths.pop()
    figure = Figure(figsize=(3.2 * len(columns), 3.2 * rows + 0.3), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for column, (title, images) in enumerate(columns.items()):
        axes[0, column].set_title(title, fontsize=10)
        for row, image in enumerate(images):
            axes[row, column].imshow(image)
    figure.tight_layout(pad=0.4)
    if path is not None:
        figure.savefig(str(path))
    return figure
