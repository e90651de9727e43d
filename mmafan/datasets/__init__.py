"""Data sets that come with mmafan."""
from __future__ import annotations

from .digits import DigitsDataset

__all__ = ['DigitsDataset']
