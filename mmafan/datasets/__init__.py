"""Data sets that come with mmafan."""
from __future__ import annotations

from .digits import DigitsDataset
from .redrawn_labels import RedrawnLabels

__all__ = ['DigitsDataset', 'RedrawnLabels']
