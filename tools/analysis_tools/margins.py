"""Measure the margins of a classifier at its input and its layers, for one checkpoint or several side by side.

    python tools/analysis_tools/margins.py CONFIG CHECKPOINT [LABEL=CHECKPOINT ...] [--layers NAME ...] [--json]
"""
from __future__ import annotations

from mmafan.lab.analyses.margins import main

if __name__ == '__main__':
    main()
