"""Draw the map of docs/when_to_use.md: what A-FAN gains, by images, augmentation and wrong labels.

The rows are those of the studies that chose the recipes; each dot is a run, compared with the baseline of its seed.
"""
from __future__ import annotations

import argparse
import csv
import os.path as osp
from typing import Dict, List, Optional, Sequence

from ..errors import require_file

METRIC = 'accuracy/top1'
STUDIES = ('regimes', 'borders', 'thresholds')
SETTINGS = {
    'n10': '10 images per class', 'n20': '20', 'n60': '60', 'n200': '200', 'n60wrong20': '60, 20 % of the labels wrong',
    'n60wrong': '60, 40 % of the labels wrong', 'n60crop': '60, with random crops'}
METHODS = {'stem 0.2 fit 0.3': 'recipe for small data', 'stem 0.1': 'a step of 0.1 from the start (wrong labels)'}


def differences(evidence: str) -> Dict[str, Dict[str, List[float]]]:
    """Read what each method gains in every setting, by their titles, in the order of the map."""
    runs: Dict[tuple, float] = {}
    for study in STUDIES:
        path = osp.join(evidence, f'classification_tune_small_{study}', 'rows.csv')
        with open(require_file(path, 'table of runs', ('.csv', )), newline='') as file:
            for row in csv.DictReader(file):
                if row['metric'] == METRIC:
                    runs[study, row['data_set'], row['arm'], row['seed']] = float(row['value'])
    found: Dict[str, Dict[str, List[float]]] = {title: {} for title in SETTINGS.values()}
    for (study, setting, arm, seed), value in runs.items():
        if setting in SETTINGS and arm in METHODS:
            gains = found[SETTINGS[setting]].setdefault(METHODS[arm], [])
            gains.append(value - runs[study, setting, 'baseline', seed])
    return found


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Read and draw."""
    parser = argparse.ArgumentParser(description='Draw what A-FAN gains by setting.')
    parser.add_argument('--evidence', default='docs/evidence', help='folder of the studies (default: %(default)s)')
    parser.add_argument('--out', default='docs/evidence/regime_map.png', help='picture (default: %(default)s)')
    args = parser.parse_args(argv)
    from ...visualization import draw_differences
    draw_differences(differences(args.evidence), 'accuracy, difference to the baseline in points; each mark a run',
                     args.out)
    print(args.out)
