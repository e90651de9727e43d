"""Studies: what a study file says, the config of each of its runs, and the table of the results."""
from __future__ import annotations

import copy
import math
import os.path as osp
import statistics
from dataclasses import dataclass, field, fields
from typing import Any, Dict, List, Optional, Sequence

import train as train_tool
from _common import load_config, require_file, stop
from mmengine.config import Config

BASELINE = 'baseline'
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        config: Config file; None: that of the study.
        options: Fields to override, by dotted name, after those of the study.
        stock: Whether the stock model is trained: without ``afan``, and without the hook.
    """
    config: Optional[str] = None
    options: Dict[str, Any] = field(default_factory=dict)
    stock: bool = False


@dataclass(frozen=True)
class Study:
    """A study file.

    Attributes:
        path: The file.
        config: Config file of the arms that name none, seen from the study file.
        arms: By name; ``baseline`` is what the others are compared with.
        metric: Name of the metric in the logs of the validation.
        seeds: Numbers; runs of the same seed are a pair.
        options: Fields to override in every arm, by dotted name.
        cost_repeats: Rounds of the measurement of each arm's step, 0 for none.
    """
    path: str
    config: Optional[str]
    arms: Dict[str, Arm]
    metric: str
    seeds: Sequence[int] = (0, 1, 2)
    options: Dict[str, Any] = field(default_factory=dict)
    cost_repeats: int = 5

    @property
    def name(self) -> str:
        """Name of the file without its ending."""
        return osp.splitext(osp.basename(self.path))[0]


def _make(kind: type, where: str, values: Dict[str, Any]) -> Any:
    known = [f.name for f in fields(kind)]
    for key in values:
        if key not in known:
            stop(f'{where} has no field {key!r}; its fields are {", ".join(known)}')
    return kind(**values)


def load_study(path: str, cfg_options: Optional[dict] = None) -> Study:
    """Read a study file, or stop with one sentence that names the field, the value and what would be right.

    Args:
        path: The file.
        cfg_options: Fields to override in every arm, by dotted name; they override those of the study file.
    """
    require_file(path, 'study file', ('.py', ))
    values = Config.fromfile(path).to_dict()
    arms = values.pop('arms', None)
    if not isinstance(arms, dict) or BASELINE not in arms or len(arms) < 2:
        stop(f'arms of {path} must be a dict with {BASELINE!r} and at least one other arm, got '
             f'{sorted(arms) if isinstance(arms, dict) else arms!r}')
    if not isinstance(values.get('metric'), str):
        stop(f'metric of {path} must be the name of a metric in the logs, such as mIoU, got {values.get("metric")!r}')
    seeds = values.get('seeds', Study.seeds)
    seeds = list(range(seeds)) if isinstance(seeds, int) and not isinstance(seeds, bool) else list(seeds)
    if not seeds or len(set(seeds)) != len(seeds) or not all(isinstance(s, int) and s >= 0 for s in seeds):
        stop(f'seeds of {path} must be a number of at least 1 or different numbers of at least 0, got '
             f'{values.get("seeds")!r}')
    values['seeds'] = seeds
    values['options'] = {**values.get('options', {}), **(cfg_options or {})}
    for name, arm in arms.items():
        if not isinstance(arm, dict):
            stop(f'arms.{name} of {path} must be a dict, such as dict(options=...), got {arm!r}')
    made = {name: _make(Arm, f'arms.{name} of {path}', dict(arm)) for name, arm in arms.items()}
    for name, arm in made.items():
        if arm.config is None and values.get('config') is None:
            stop(f'arms.{name}.config of {path} must be a config file, as the study names none for all arms')
    return _make(Study, path, dict(dict(config=None), path=path, arms=made, **values))


def run_config(study: Study, arm_name: str, seed: int, work_dir: str) -> Config:
    """Return the config of one run, as ``tools/train.py`` would train it."""
    from mmafan.analysis.arm import baseline_model
    arm = study.arms[arm_name]
    path = str(arm.config or study.config)
    if '::' not in path:  # a file, not a config of a package
        path = osp.join(osp.dirname(study.path), path)
    cfg = load_config(path, {**copy.deepcopy(study.options), **copy.deepcopy(arm.options)})
    if arm.stock:
        cfg.model = baseline_model(cfg)[0]
        cfg.custom_hooks = [h for h in cfg.get('custom_hooks') or []
                            if not str(h.get('type')).endswith('AdvFeatureHook')]
    cfg.merge_from_dict(dict(randomness=dict(seed=seed)))
    train_tool.apply_args(cfg, train_tool.parse_args([path, '--resume', '--work-dir', run_folder(
        work_dir, arm_name, seed)]))
    return cfg


def run_folder(work_dir: str, arm: str, seed: int) -> str:
    """Return the work folder of one run."""
    return osp.join(work_dir, arm, f'seed_{seed}')


def interval(values: Sequence[float]) -> float:
    """Return half the width of the 95 % confidence interval of the mean, by Student's t distribution.

    Example:
        >>> round(interval([1.0, 2.0, 3.0]), 3)  # 4.303 / sqrt(3)
        2.484
    """
    from scipy.stats import t
    count = len(values)
    return float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * statistics.stdev(values) / math.sqrt(count)


def summarise(study: Study, results: Dict[str, Dict[int, float]], costs: Dict[str, float]) -> List[Dict[str, Any]]:
    """Compare every arm with the baseline.

    Args:
        study: The study.
        results: The metric by arm and seed.
        costs: Cost of a step in baseline steps, by arm; arms that were not measured are missing.

    Returns:
        For each arm ``arm``, ``runs``, ``mean``, ``deviation`` (unbiased; None for one run), ``difference`` (mean of
        the paired differences to the baseline), ``interval`` (of the difference: half its 95 % confidence interval) and
        ``cost``.
    """
    rows = []
    for name in study.arms:
        values = list(results[name].values())
        pairs = [value - results[BASELINE][seed] for seed, value in results[name].items()
                 if seed in results[BASELINE]]
        compared = name != BASELINE and bool(pairs)
        rows.append(dict(
            arm=name, runs=len(values), mean=statistics.fmean(values) if values else None,
            deviation=statistics.stdev(values) if len(values) > 1 else None,
            difference=statistics.fmean(pairs) if compared else None,
            interval=interval(pairs) if compared and len(pairs) > 1 else None, cost=costs.get(name)))
    return rows


def table(study: Study, rows: Sequence[Dict[str, Any]]) -> str:
    """Lay the summary out as a markdown table."""

    def number(value: Optional[float], form: str = '.2f') -> str:
        return '' if value is None else format(value, form)

    lines = [f'| arm | runs | {study.metric} | deviation | difference to the baseline (95 % interval) | step |',
             '|---|---|---|---|---|---|']
    for row in rows:
        difference = number(row['difference'], '+.2f')
        if row['interval'] is not None:
            difference += f' ± {row["interval"]:.2f}'
        cells = [row['arm'], row['runs'], number(row['mean']), number(row['deviation']), difference,
                 number(row['cost'])]
        lines.append(f'| {" | ".join(map(str, cells))} |')
    return '\n'.join(lines)
