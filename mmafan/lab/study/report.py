"""What a study leaves: a row for every run, tables, pictures, and a page of both."""
from __future__ import annotations

import csv
import io
import os.path as osp
from typing import Any, Dict, List, Sequence, Tuple

from .recipe import BASELINE, Study
from .statistics import summarise, table, verdict

COLUMNS = ('data_set', 'arm', 'seed', 'metric', 'value', 'seconds', 'config_sha256', 'versions')
Run = Tuple[str, str, int]  # data set, arm, seed


def write_rows(studies: Sequence[Study], results: Dict[Run, Dict[str, Any]], path: str) -> None:
    """Write every run as a row."""
    rows: List[Tuple[Any, ...]] = [
        (study.data_set, arm, seed, metric, result['metrics'][metric], round(result['seconds'], 1),
         result['fingerprint'], ' '.join(f'{k}={v}' for k, v in result['versions'].items()))
        for study in studies for arm in study.arms for seed in study.seeds
        for result in [results.get((study.data_set, arm, seed))] if result
        for metric in study.metrics or result['metrics']]
    from ...storage import write_whole
    text = io.StringIO(newline='')
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def report(study: Study, results: Dict[Run, Dict[str, Any]], compute: Dict[str, float], work_dir: str) -> str:
    """Draw the results on one data set; return their table and what it says about the controls."""
    from ...visualization import draw_arms
    by_metric = {metric: {arm: {seed: results[study.data_set, arm, seed]['metrics'][metric] for seed in study.seeds}
                          for arm in study.arms} for metric in study.metrics}
    values = by_metric[study.metric]
    rows, *further = (summarise(study, one, compute) for one in by_metric.values())
    draw_arms({name: list(runs.values()) for name, runs in values.items()}, study.metric,
              osp.join(work_dir, study.data_set, 'arms.png'), baseline=BASELINE)
    title = [f'{study.data_set}:'] if study.data_set else []
    laid_out = table(study, rows, dict(zip(study.also, further)))
    return '\n\n'.join(filter(None, [*title, laid_out, verdict(study, values)]))
