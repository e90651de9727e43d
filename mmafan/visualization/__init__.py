"""Pictures of features, training curves and results."""
from __future__ import annotations

from .arms import draw_arms
from .curves import draw_curves, read_scalars, summarize_curves
from .differences import draw_differences
from .feature_pictures import attack_features, draw_features, make_rows
from .image_grid import draw_image_grid
from .landscape import draw_landscape
from .layer_plots import draw_margins, draw_statistics_shift
from .robustness_curves import draw_robustness
from .sweep_map import draw_sweep

__all__ = [
    'attack_features', 'draw_arms', 'draw_curves', 'draw_differences', 'draw_features', 'draw_image_grid',
    'draw_landscape', 'draw_margins', 'draw_robustness', 'draw_statistics_shift', 'draw_sweep', 'make_rows',
    'read_scalars', 'summarize_curves'
]
