"""Draw the map of docs/when_to_use.md: what A-FAN gains, by images, augmentation and wrong labels.

    python tools/analysis_tools/regime_map.py [--evidence docs/evidence] [--out docs/evidence/regime_map.png]
"""
from __future__ import annotations

from mmafan.lab.analyses.regime_map import main

if __name__ == '__main__':
    main()
