"""How much accuracy is left under pixel attacks and common corruptions, for one or several checkpoints of a config.

    python tools/analysis_tools/robustness.py CONFIG [LABEL=]CHECKPOINT ... [--pgd-radii R ...] [--corruptions NAME ...]
"""
from __future__ import annotations

from mmafan.lab.analyses.robustness import main

if __name__ == '__main__':
    main()
