"""Test (and evaluate) a checkpoint with a config of mmpretrain, mmdet or mmseg, with or without A-FAN.

    python tools/test.py CONFIG CHECKPOINT [--work-dir DIR] [--out FILE] [--show | --show-dir DIR] [--tta]
"""
from __future__ import annotations

from mmafan.lab.test import main

if __name__ == '__main__':
    main()
