"""Pictures of features, training curves and results."""
from __future__ import annotations

from .curves import draw_curves, read_scalars, summarize_curves
from .feature_pictures import attack_features, draw_features, make_rows
from .image_grid import draw_image_grid

__all__ = [
    'attack_features', 'draw_curves', 'draw_features', 'draw_image_grid', 'make_rows', 'read_scalars',
    'summarize_curves'
]
