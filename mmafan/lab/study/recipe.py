"""Studies: what a study file says, the config of each of its runs, and the table of the results."""
from __future__ import annotations

import copy
import os.path as osp
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Dict, List, Optional, Sequence

from mmengine.config import Config

from .. import train as train_tool
from ..configs import read_config
from ..errors import require_file, stop
from .measures import Measure

BASELINE = 'baseline'


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        config: Config file; None: that of the study.
        options: Fields to override, by dotted name, after those of the study.
        stock: Whether the stock model is trained: without ``afan``, and without the hook.
        control: Whether the others have to beat this arm too, as they have to beat the baseline.
    """
    config: Optional[str] = None
    options: Dict[str, Any] = field(default_factory=dict)
    stock: bool = False
    control: bool = False


@dataclass(frozen=True)
class DataSet:
    """Data that all arms are trained on.

    Attributes:
        config: Config file of the arms that name none; None: that of the study.
        options: Fields to override in every arm, after those of the study and before those of the arm.
        metric: Name of the metric; None: that of the study.
    """
    config: Optional[str] = None
    options: Dict[str, Any] = field(default_factory=dict)
    metric: Optional[str] = None


@dataclass(frozen=True)
class Study:
    """A study file, or what it says for one of its data sets.

    Attributes:
        path: The file.
        config: Config file of the arms that name none, seen from the study file.
        arms: By name; ``baseline`` is what the others are compared with.
        metric: Name of the metric in the logs of the validation; empty where all count alike.
        seeds: Numbers; runs of the same seed are a pair.
        options: Fields to override in every arm, by dotted name.
        data_set: Name of the data set; empty where the study names none.
        measures: What is measured after each training, by name.
        also: Names of further metrics, which the table shows beside ``metric``.
        data: Settings of data that were made for it, in place of the measures in what identifies its runs.
    """
    path: str
    config: Optional[str]
    arms: Dict[str, Arm]
    metric: str
    seeds: Sequence[int] = (0, 1, 2)
    options: Dict[str, Any] = field(default_factory=dict)
    data_set: str = ''
    measures: Dict[str, Measure] = field(default_factory=dict)
    also: Sequence[str] = ()
    data: Optional[Dict[str, Any]] = None

    @property
    def metrics(self) -> List[str]:
        """All that the table shows."""
        return [name for name in (self.metric, *self.also) if name]

    @property
    def identity(self) -> Dict[str, Any]:
        """What tells its runs from others of the same config."""
        if self.data is not None:
            return self.data
        return {'measures': {name: asdict(one) for name, one in self.measures.items()}} if self.measures else {}

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


def _load_measures(path: str, given: Any) -> Dict[str, Measure]:
    if not isinstance(given, dict) or not all(isinstance(one, dict) for one in given.values()):
        stop(f"measures of {path} must be a dict of dicts, such as dict(training=dict(data='train')), got {given!r}")
    made = {}
    for name, one in given.items():
        try:
            made[name] = _make(Measure, f'measures.{name} of {path}', dict(one))
        except ValueError as error:
            stop(f'measures.{name}.{error} in {path}')
    return made


def load_study(path: str, cfg_options: Optional[dict] = None) -> List[Study]:
    """Read a study file, or stop with one sentence that names the field, the value and what would be right.

    Args:
        path: The file.
        cfg_options: Fields to override in every arm, by dotted name; they override those of the study file.

    Returns:
        One study for each of the data sets, or one where the file names none.
    """
    require_file(path, 'study file', ('.py', ))
    try:
        values = Config.fromfile(path).to_dict()
    except Exception as error:  # whatever its Python raises
        stop(f'{path} cannot be read: {type(error).__name__}: {error}')
    arms = values.pop('arms', None)
    if not isinstance(values.get('config', ''), str):
        stop(f'config of {path} must be a config file, got {values["config"]!r}')
    if not isinstance(arms, dict) or BASELINE not in arms or len(arms) < 2:
        stop(f'arms of {path} must be a dict with {BASELINE!r} and at least one other arm, got '
             f'{sorted(arms) if isinstance(arms, dict) else arms!r}')
    data_sets = values.pop('data_sets', {'': {}})
    for name, data_set in data_sets.items() if isinstance(data_sets, dict) else [('', None)]:
        if not isinstance(data_set, dict):
            stop(f'data_sets of {path} must be a dict of dicts, such as dict(digits=dict(options=...)), got '
                 f'{data_sets!r}')
    sets = {name: _make(DataSet, f'data_sets.{name} of {path}', dict(data_set)) for name, data_set in data_sets.items()}
    if not sets:
        stop(f'data_sets of {path} must name at least one, got {data_sets!r}')
    if not isinstance(values.get('metric'), str) and not all(data_set.metric for data_set in sets.values()):
        stop(f'metric of {path} must be the name of a metric in the logs, such as mIoU, got {values.get("metric")!r}')
    seeds = values.get('seeds', Study.seeds)
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        seeds = list(range(seeds))
    if (not isinstance(seeds, (list, tuple)) or not seeds or not all(isinstance(s, int) and s >= 0 for s in seeds)
            or len(set(seeds)) != len(seeds)):
        stop(f'seeds of {path} must be a number of at least 1 or different numbers of at least 0, got '
             f'{values.get("seeds")!r}')
    values['seeds'] = list(seeds)
    values['measures'] = _load_measures(path, values.pop('measures', {}))
    also = values.setdefault('also', ())
    if not isinstance(also, (list, tuple)) or not all(isinstance(name, str) for name in also):
        stop(f"also of {path} must be a list of names of metrics, such as ('calibration/ece', ), got {also!r}")
    options = values.pop('options', {})
    given_options = {'options': options, **{f'data_sets.{name}.options': s.options for name, s in sets.items()}}
    for where, given in given_options.items():
        if not isinstance(given, dict):
            stop(f"{where} of {path} must be a dict, such as {{'train_cfg.max_epochs': 10}}, got {given!r}")
    for where, names in (('arms', arms), ('data_sets', sets)):
        for name in names:
            if not isinstance(name, str) or name.startswith('.') or '/' in name or '\\' in name:
                stop(f"the names in {where} of {path} name folders: they must be texts without slashes that do not "
                     f"begin with a dot, such as 'A-FAN', got {name!r}")
    for name, arm in arms.items():
        if not isinstance(arm, dict):
            stop(f'arms.{name} of {path} must be a dict, such as dict(options=...), got {arm!r}')
        for key, kind, right in (('stock', bool, 'True or False'), ('control', bool, 'True or False'),
                                 ('config', str, 'a config file'), ('options', dict, 'a dict')):
            if key in arm and not isinstance(arm[key], kind):
                stop(f'arms.{name}.{key} of {path} must be {right}, got {arm[key]!r}')
    made = {name: _make(Arm, f'arms.{name} of {path}', dict(arm)) for name, arm in arms.items()}
    studies = []
    for label, data_set in sets.items():
        config = data_set.config or values.get('config')
        for name, arm in made.items():
            if arm.config is None and config is None:
                stop(f'arms.{name}.config of {path} must be a config file, as the study names none for all arms')
        studies.append(_make(Study, path, {
            **values, 'path': path, 'arms': made, 'config': config, 'metric': data_set.metric or values['metric'],
            'options': {**options, **data_set.options, **(cfg_options or {})}, 'data_set': label}))
    return studies


def run_config(study: Study, arm_name: str, seed: int, work_dir: str) -> Config:
    """Return the config of one run, as ``tools/train.py`` would train it.

    Raises:
        ValueError, TypeError: If it is no whole config, or its ``afan`` has a wrong field.
    """
    from ...analysis.arm import baseline_model
    from ...config import AFANConfig
    from ...naming import type_name
    arm = study.arms[arm_name]
    path = osp.join(osp.dirname(study.path), str(arm.config or study.config))
    cfg = read_config(path, {**copy.deepcopy(study.options), **copy.deepcopy(arm.options)})
    if not isinstance(cfg.get('model'), dict):
        raise ValueError(f'{path} must be a whole config, whose field model is a dict, got {cfg.get("model")!r}')
    if arm.stock:
        cfg.model = baseline_model(cfg)[0]
        cfg.custom_hooks = [h for h in cfg.get('custom_hooks') or []
                            if type_name(h.get('type')) != 'AdvFeatureHook']
    elif 'afan' in cfg.model:
        AFANConfig.from_dict(cfg.model.afan)  # a wrong field is told here, and not by a run of its own
    cfg.merge_from_dict(dict(randomness=dict(seed=seed)))
    train_tool.apply_args(cfg, train_tool.parse_args([path, '--resume', '--work-dir', run_folder(
        study, work_dir, arm_name, seed)]))
    return cfg


def run_folder(study: Study, work_dir: str, arm: str, seed: int) -> str:
    """Return the work folder of one run."""
    return osp.join(work_dir, study.data_set, arm, f'seed_{seed}')
