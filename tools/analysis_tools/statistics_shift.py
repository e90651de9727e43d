"""Measure how far the statistics of the features move, layer by layer, when a tap of A-FAN is attacked.

    python tools/analysis_tools/statistics_shift.py CONFIG CHECKPOINT [--tap NAME] [--modules NAME ...] [--json]
"""
from __future__ import annotations

from mmafan.lab.analyses.statistics_shift import main

if __name__ == '__main__':
    main()
