"""Check on one GPU what no CPU can show, within a limit of time: tests, costs and a study; see tools/gpu_check.sh."""
from __future__ import annotations

from mmafan.lab.gpu_check.check import main

if __name__ == '__main__':
    main()
