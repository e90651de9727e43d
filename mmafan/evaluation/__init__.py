"""Metrics that come with mmafan."""
from __future__ import annotations

from .calibration import CalibrationError, expected_calibration_error

__all__ = ['CalibrationError', 'expected_calibration_error']
