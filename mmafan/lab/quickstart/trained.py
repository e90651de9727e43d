"""What a demo does with models: whether they can run, and those that it has trained, for its pictures."""
from __future__ import annotations

import importlib
from typing import Any, Iterator, Tuple

import torch
from mmengine.runner import Runner, load_checkpoint

from ...storage import find_checkpoint
from ..errors import stop
from ..study.recipe import Study, run_config
from ..trained import build_model
from .task import Task


def load_trained(study: Study, arm: str, work_dir: str, num_samples: int) -> Tuple[Any, Any]:
    """Return the trained model of seed 0 and the first test samples as one batch."""
    cfg = run_config(study, arm, 0, work_dir)
    model = build_model(cfg)
    found = find_checkpoint(cfg.work_dir)
    if found.path is None:
        stop(f'{found}; remove {cfg.work_dir}, and the same command trains it again')
    load_checkpoint(model, found.path, map_location='cpu')
    return model, next(iter(Runner.build_dataloader(dict(cfg.test_dataloader, batch_size=num_samples), seed=0)))


def predict(task: Task, study: Study, work_dir: str, num_samples: int) -> Iterator[Tuple[str, Any, Any]]:
    """Yield for each arm its title, the first test images, and what its model of seed 0 predicts for them."""
    for name, arm in task.arms.items():
        model, batch = load_trained(study, name, work_dir, num_samples)
        with torch.no_grad():
            samples = model.eval().test_step(batch)
        yield arm.title, batch['inputs'], samples


def require_operators(codebase: str) -> None:
    """Stop where a codebase cannot build its models."""
    try:
        importlib.import_module('mmcv.ops')
        importlib.import_module(f'{codebase}.models')
    except ImportError as error:
        stop(f"this demo needs {codebase}, and mmcv with its operators ('bash tools/setup_env.sh' installs both): "
             f'{error}')
