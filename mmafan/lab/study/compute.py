"""What the trainings of a study compute, and what a step of A-FAN costs; each is counted or measured once."""
from __future__ import annotations

import json
import os.path as osp
import sys
from typing import Any, Dict

from ..cpu import adapt_to_cpu
from .recipe import BASELINE, Study, run_config
from .runs import fingerprint, quiet, read_json, write_json


def count_compute(study: Study, shares: Dict[str, float], work_dir: str) -> Dict[str, float]:
    """Count what the training of every arm computes, in trainings of the baseline; empty where that fails.

    Args:
        study: The study.
        shares: By arm, the share of the steps in which A-FAN was on, where it was not on in all of them.
        work_dir: Where the counts are kept.
    """
    from ...analysis.arm import baseline_model
    counts = {}
    for name in study.arms:
        cfg = run_config(study, name, study.seeds[0], work_dir)
        folder = osp.join(work_dir, study.data_set, name)
        try:
            counts[name] = count_once(cfg, osp.join(folder, 'compute.json'))
            share = shares.get(name, 1.0)
            if share < 1 and 'afan' in cfg.model:
                cfg.model = baseline_model(cfg)[0]
                without = count_once(cfg, osp.join(folder, 'compute_without.json'))
                counts[name] = without + share * (counts[name] - without)
        except Exception as error:  # a model or a loader of any kind: the table is there without it
            print(f'what the arms compute is not counted: {name}: {type(error).__name__}: {error}', file=sys.stderr)
            return {}
    return {name: count / counts[BASELINE] for name, count in counts.items()}


def count_once(cfg: Any, path: str) -> float:
    """Count what a training computes, or read the count where it was made before."""
    from ...analysis import count_training_flops
    key = fingerprint(cfg, {})
    known = read_json(path)
    if known.get('fingerprint') != key:
        with quiet():
            adapt_to_cpu(cfg)
            known = dict(fingerprint=key, flops=count_training_flops(cfg))
        write_json(path, known)
    return known['flops']


def measure_once(cfg: Any, repeats: int, path: str) -> Dict[str, Any]:
    """Measure the cost of a step with and without A-FAN, or read it where it was measured before; plain numbers."""
    from ...analysis import load_batches, measure_step_cost
    key = json.dumps([cfg.to_dict(), repeats], sort_keys=True, default=str)
    known = read_json(path)
    if known.get('key') != key:
        with quiet():
            adapt_to_cpu(cfg)
            cost = measure_step_cost(cfg, load_batches(cfg, 2), repeats, published=False, memory=False)
        known = dict(key=key, cost=cost.to_dict())
        write_json(path, known)
    return known['cost']
