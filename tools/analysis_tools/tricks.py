"""Measure what could make a step of A-FAN cheaper, for any A-FAN config.

    python tools/analysis_tools/tricks.py CONFIG [--batch-size N] [--image-size H] [--passes N] [--json]
"""
from __future__ import annotations

import os

os.environ.setdefault('KINETO_LOG_LEVEL', '5')  # before torch: its profiler asks for a GPU aloud

from mmafan.lab.analyses.tricks import main  # noqa: E402

if __name__ == '__main__':
    main()
