"""Train a config with and without A-FAN from the same seeds, and print the results side by side.

    python tools/analysis_tools/compare.py CONFIG [--seeds N] [--work-dir DIR] [--cfg-options ...]
"""
from __future__ import annotations

from mmafan.lab.analyses.compare import main

if __name__ == '__main__':
    main()
