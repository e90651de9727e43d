"""Training runs that other tools make: each is trained once, and goes on where it was killed."""
from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import os.path as osp
import sys
import time
import warnings
from importlib import metadata
from typing import Any, Callable, Dict, Iterator, Optional

from mmengine.logging import MMLogger

from ..configs import build_runner
from ..faults import go_on_where_it_was
from .measures import Measure, numbers, run_measures

SCALE = 'train/afan_strength_scale'  # logged by AdvFeatureHook in every iteration
ATTACKED_STEPS = 'study_attacked_steps'  # in the message hub, which a checkpoint holds: steps attacked, steps
ATTACKED_SHARE = 'share of steps attacked'  # beside the metrics of a result


def fingerprint(cfg: Any, data: dict) -> str:
    """Identify a run by its config and the settings of its data, whatever folder it is written to.

    The recipe that a base config offers does not count, only what the model has taken of it.
    """
    fields = {k: v for k, v in cfg.to_dict().items() if k not in ('work_dir', 'resume', 'afan_recipe')}
    return hashlib.sha256(json.dumps([fields, data], sort_keys=True, default=str).encode()).hexdigest()


def write_json(path: str, value: dict) -> None:
    """Write a file that is either whole or not there."""
    from ...storage import write_whole
    write_whole(path, json.dumps(value, indent=2))


def read_json(path: str) -> dict:
    """Read a file of :func:`write_json`; an empty dict where there is none that is whole."""
    try:
        with open(path, encoding='utf-8') as file:
            value = json.load(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last is half a file, or none of text
        return {}
    return value if isinstance(value, dict) else {}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep mmengine's log off the screen; its file in the work folder holds all of it."""
    # A logger made before writes to what the screen was then.
    handlers = [(handler, handler.stream) for handler in MMLogger.get_current_instance().handlers
                if type(handler) is logging.StreamHandler]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        for handler, _ in handlers:
            handler.stream = errors
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try:
                yield
            except Exception as error:
                from ...storage import is_disk_full
                if not is_disk_full(error):
                    print(errors.getvalue(), end='', file=sys.__stderr__)
                raise
            finally:
                for handler, stream in handlers:
                    handler.stream = stream


def train_once(cfg: Any, data: dict, on_epoch: Optional[Callable[[int, float], None]] = None,
               hooks: tuple = (), measures: Optional[Dict[str, Measure]] = None) -> Dict[str, Any]:
    """Train a config in its ``work_dir``, or read its result where it is finished.

    Args:
        cfg: As ``tools/train.py`` would train it, with ``resume`` set.
        data: Settings of data that were made for the run; with the config they identify it.
        on_epoch: Called after every epoch with its number and the loss.
        hooks: Further mmengine hooks.
        measures: What is measured beside the validation of the config, after the training.

    Returns:
        ``metrics``: numbers of the last validation by name (what is not one number is left out), those of every
        measure, and, with ``measures``, the highest of several validations as ``best <name>``; the share of the steps
        in which A-FAN was on; ``seconds`` that training took, those of the last session where it was killed;
        ``versions`` of the packages; ``fingerprint``; ``reused``: whether the run was finished before.
    """
    result_path, start_path = (osp.join(cfg.work_dir, name) for name in ('result.json', 'started.json'))
    identity = fingerprint(cfg, data)
    result = read_json(result_path)
    if result.get('fingerprint') == identity:
        return dict(result, reused=True)
    if put_aside(cfg.work_dir, identity):
        return train_once(cfg, data, on_epoch, hooks, measures)
    os.makedirs(cfg.work_dir, exist_ok=True)
    go_on_where_it_was(cfg, start_over=True)
    write_json(start_path, dict(fingerprint=identity))
    from mmengine.hooks import Hook
    validations_path = osp.join(cfg.work_dir, 'validations.json')  # by iteration, those of killed sessions too
    validations: Dict[str, Dict[str, float]] = read_json(validations_path)
    begin = time.monotonic()

    class Report(Hook):

        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            if SCALE in runner.message_hub.log_scalars:
                on, steps = runner.message_hub.get_info(ATTACKED_STEPS, (0, 0))
                on += int(runner.message_hub.get_scalar(SCALE).current() > 0)
                runner.message_hub.update_info(ATTACKED_STEPS, [on, steps + 1])

        def after_train_epoch(self, runner: Any) -> None:
            if on_epoch is not None:
                on_epoch(runner.epoch + 1, float(runner.message_hub.get_scalar('train/loss').current()))

        def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
            validations[str(runner.iter)] = numbers(metrics)
            write_json(validations_path, validations)

    with quiet():
        from ..cpu import adapt_to_cpu
        cfg.experiment_name = f'run_{time.time_ns()}'
        if cfg.get('visualizer'):  # mmengine keeps one for each name, with the folder of its first run
            cfg.visualizer.name = cfg.experiment_name
        adapt_to_cpu(cfg)
        runner = build_runner(cfg)
        report = Report()
        for hook in (report, *hooks):
            runner.register_hook(hook)
        runner.train()
        if str(runner.iter) not in validations:  # killed between the last epoch and its validation
            runner.val()
        last = validations[str(runner.iter)]
        metrics = dict(last)
        if measures is not None and len(validations) > 1:
            metrics.update({f'best {name}': max(one.get(name, value) for one in validations.values())
                            for name, value in last.items()})
        on, steps = runner.message_hub.get_info(ATTACKED_STEPS, (0, 0))
        runner.hooks.remove(report)
        metrics.update(run_measures(runner, measures or {}))
    result = dict(metrics=metrics, seconds=time.monotonic() - begin, versions=versions(), fingerprint=identity)
    if steps:
        result[ATTACKED_SHARE] = on / steps
    write_json(result_path, result)
    return dict(result, reused=False)


def put_aside(work_dir: str, identity: str) -> bool:
    """Keep a run with other settings in a folder of its own, and take back the one asked for; True if it was there."""
    other = read_json(osp.join(work_dir, 'started.json')).get('fingerprint', identity)
    if other != identity:
        os.replace(work_dir, f'{work_dir}.{other[:8]}')
    kept = f'{work_dir}.{identity[:8]}'
    if osp.exists(work_dir) or not osp.exists(kept):
        return False
    os.replace(kept, work_dir)
    return True


def versions() -> Dict[str, str]:
    """Versions of the packages that a result depends on, those that are installed."""
    found = {}
    for name in ('torch', 'mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'mmsegmentation', 'mmafan'):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
