"""The models that a demo has trained, for its pictures."""
from __future__ import annotations

from typing import Any, Tuple

from mmengine.runner import Runner, load_checkpoint

from ...storage import find_checkpoint
from ..errors import stop
from ..study.recipe import Study, run_config
from ..trained import build_model


def load_trained(study: Study, arm: str, work_dir: str, num_samples: int) -> Tuple[Any, Any]:
    """Return the trained model of seed 0 and the first test samples as one batch."""
    cfg = run_config(study, arm, 0, work_dir)
    model = build_model(cfg)
    found = find_checkpoint(cfg.work_dir)
    if found.path is None:
        stop(f'{found}; remove {cfg.work_dir}, and the same command trains it again')
    load_checkpoint(model, found.path, map_location='cpu')
    return model, next(iter(Runner.build_dataloader(dict(cfg.test_dataloader, batch_size=num_samples), seed=0)))
