"""Measure what A-FAN adds to a training step, beside theory and beside its authors' own schedule.

    python tools/analysis_tools/step_cost.py CONFIG [--batch-size N] [--image-size H] [--processes N] [--json]
"""
from __future__ import annotations

import os

os.environ.setdefault('KINETO_LOG_LEVEL', '5')  # before torch: its profiler asks for a GPU aloud

from mmafan.lab.analyses.step_cost import main  # noqa: E402

if __name__ == '__main__':
    main()
