"""Draw the features at a tap: clean, perturbed by every strength, and with the perturbed statistics re-injected.

    python tools/analysis_tools/feature_pictures.py CONFIG CHECKPOINT [--tap NAME] [--num-images N]
"""
from __future__ import annotations

from mmafan.lab.analyses.feature_pictures import main

if __name__ == '__main__':
    main()
