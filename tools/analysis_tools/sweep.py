"""Sweep the tap and the step size (and the strength) of A-FAN, and draw the differences to the stock model as a map.

    python tools/analysis_tools/sweep.py CONFIG --taps backbone.layer1 backbone.layer2 --step-sizes 0 0.03 0.1 0.3 \
        --metric accuracy/top1 --seeds 3
"""
from __future__ import annotations

from mmafan.lab.analyses.sweep import main

if __name__ == '__main__':
    main()
