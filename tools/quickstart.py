"""Train a small model with and without A-FAN on data that needs no download, and report what came out.

    python tools/quickstart.py [classification | detection | segmentation] [--work-dir DIR] [--seeds N] [--epochs N]
"""
from __future__ import annotations

from mmafan.lab.quickstart.command import main

if __name__ == '__main__':
    main()
