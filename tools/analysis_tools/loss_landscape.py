"""Draw the loss around trained weights along two filter-normalised random directions.

    python tools/analysis_tools/loss_landscape.py CONFIG CHECKPOINT [LABEL=CHECKPOINT ...] [--points P] [--range R]
"""
from __future__ import annotations

from mmafan.lab.analyses.loss_landscape import main

if __name__ == '__main__':
    main()
