"""The runs of a demo, and what is done with the trained models."""
from __future__ import annotations

import os.path as osp
from typing import Any, Callable, Dict, List, Optional, Tuple

from ...configs import CONFIGS
from .. import train as train_tool
from ..configs import load_config
from ..errors import stop
from ..study.runs import ATTACKED_SHARE, quiet, train_once, write_json
from .task import Task

ROOT = osp.dirname(CONFIGS)


def run_folder(work_dir: str, arm: str, seed: int) -> str:
    """Return the work folder of one run."""
    return osp.join(work_dir, arm, f'seed_{seed}')


def train_command(task: Task, arm: str, seed: int, epochs: int, work_dir: str) -> List[str]:
    """Return the arguments of ``tools/train.py`` for one run."""
    way = task.arms[arm]
    return [way.config, '--work-dir', run_folder(work_dir, arm, seed), '--resume', '--cfg-options',
            f'randomness.seed={seed}', f'train_cfg.max_epochs={way.num_epochs(epochs)}',
            f'default_hooks.checkpoint.interval={max(1, epochs // 12)}', *way.options]


def make_config(arguments: List[str]) -> Any:
    """Read the config of one run as ``tools/train.py`` does."""
    args = train_tool.parse_args(arguments)
    cfg = load_config(osp.join(ROOT, args.config), args.cfg_options)
    train_tool.apply_args(cfg, args)
    return cfg


def train_run(task: Task, arm: str, seed: int, epochs: int, work_dir: str,
              on_epoch: Optional[Callable[[int, float], None]] = None, hooks: tuple = ()) -> Dict:
    """Train one arm with one seed, or read its result where it is finished.

    Args:
        task: The demo.
        arm: Name of one of its arms.
        seed: Of the run; arms with the same seed see the same images in the same order.
        epochs: Length of a run of the baseline.
        work_dir: Folder of the demo.
        on_epoch: Called after every epoch with its number and the loss.
        hooks: Further mmengine hooks.

    Returns:
        ``metrics``, in percent at the last epoch by key, ``command``, whether it was ``reused``, and, of A-FAN, the
        share of the steps in which it was on.
    """
    arguments = train_command(task, arm, seed, epochs, work_dir)
    result = train_once(make_config(arguments), task.prepare(), on_epoch, hooks, task.measures)
    metrics = {metric.key: metric.factor * result['metrics'][metric.key] for metric in task.metrics}
    shares = {name: value for name, value in result.items() if name == ATTACKED_SHARE}
    return dict(metrics=metrics, command='python tools/train.py ' + ' '.join(arguments), reused=result['reused'],
                **shares)


def load_trained(task: Task, arm: str, epochs: int, work_dir: str, num_samples: int) -> Tuple[Any, Any]:
    """Return the trained model of seed 0 and the first test samples as one batch."""
    from mmengine.registry import MODELS, init_default_scope
    from mmengine.runner import Runner, load_checkpoint
    cfg = make_config(train_command(task, arm, 0, epochs, work_dir))
    init_default_scope(cfg.default_scope)
    fields = dict(cfg.model)
    if 'data_preprocessor' in cfg:
        fields.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(fields)
    from ...storage import find_checkpoint
    found = find_checkpoint(cfg.work_dir)
    if found.path is None:
        stop(f'{found}; remove {cfg.work_dir}, and the same command trains it again')
    load_checkpoint(model, found.path, map_location='cpu')
    return model, next(iter(Runner.build_dataloader(dict(cfg.test_dataloader, batch_size=num_samples), seed=0)))


def measure_cost(task: Task, work_dir: str) -> Dict:
    """Measure the step of both arms in turn, in this process."""
    from ...analysis import load_batches, measure_step_cost
    cfg = load_config(osp.join(ROOT, task.arms['afan'].config))
    with quiet():
        cost = measure_step_cost(cfg, load_batches(cfg, 2), task.cost_repeats, published=False, memory=False).to_dict()
    write_json(osp.join(work_dir, 'cost.json'), cost)
    return cost
