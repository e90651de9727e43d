"""Train a model from a config of mmpretrain, mmdet or mmseg, with or without A-FAN.

    python tools/train.py CONFIG [--work-dir DIR] [--resume [CHECKPOINT]] [--amp] [--cfg-options KEY=VALUE ...]
"""
from __future__ import annotations

from mmafan.lab.train import main

if __name__ == '__main__':
    main()
