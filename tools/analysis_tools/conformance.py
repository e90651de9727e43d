"""Try every family of stock models with A-FAN: the gradients of a step beside the stock model's, and a prediction.

    python tools/analysis_tools/conformance.py --codebase mmdet [--family retinanet ...] [--json FILE] [--jobs N]
"""
from __future__ import annotations

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch: processes share the cores

from mmafan.lab.analyses.conformance import main  # noqa: E402

if __name__ == '__main__':
    main()
