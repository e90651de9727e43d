"""Train the arms of a study with several seeds, several runs at a time, and compare them with its baseline.

    python tools/study.py STUDY.py [--work-dir DIR] [--jobs N]
"""
from __future__ import annotations

from mmafan.lab.study.command import main

if __name__ == '__main__':
    main()
