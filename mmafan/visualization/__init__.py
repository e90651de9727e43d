"""Pictures of features and training curves."""
from __future__ import annotations

from .curves import draw_curves, read_scalars, summarize_curves
from .feature_pictures import attack_features, draw_features, make_rows

__all__ = ['attack_features', 'draw_curves', 'draw_features', 'make_rows', 'read_scalars', 'summarize_curves']
