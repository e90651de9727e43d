"""Train a small model with and without A-FAN on data that needs no download, and report what came out.

    python tools/quickstart.py [classification] [--work-dir DIR] [--seeds N] [--epochs N]

A killed run may be started again: what is finished is not repeated.
"""
from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import os.path as osp
import shutil
import sys
import time
import warnings
from typing import Callable, Dict, List, Optional

import train as train_tool
from _common import build_runner, load_config, stop
from _progress import Progress

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
ARMS = dict(baseline='configs/mmpretrain/resnet_digits.py', afan='configs/mmpretrain/resnet_afan_digits.py')
TITLES = dict(baseline='baseline', afan='A-FAN')
EPOCH_COST = dict(baseline=1.0, afan=2.8)  # only for the time left that the progress bar shows
METRIC = 'accuracy/top1'
COST_REPEATS = 15  # as in the command that the report names


def train_command(arm: str, seed: int, epochs: int, work_dir: str) -> List[str]:
    """Return the arguments of ``tools/train.py`` for one run."""
    return [ARMS[arm], '--work-dir', osp.join(work_dir, arm, f'seed_{seed}'), '--resume', '--cfg-options',
            f'randomness.seed={seed}', f'train_cfg.max_epochs={epochs}',
            f'default_hooks.checkpoint.interval={max(1, epochs // 12)}']


def make_config(arguments: List[str]):
    """Read the config of one run as ``tools/train.py`` does."""
    args = train_tool.parse_args(arguments)
    cfg = load_config(osp.join(ROOT, args.config), args.cfg_options)
    train_tool.apply_args(cfg, args)
    return cfg


def fingerprint(cfg) -> str:
    """Identify a run by its config, whatever folder it is written to."""
    fields = {k: v for k, v in cfg.to_dict().items() if k not in ('work_dir', 'resume')}
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()


def write_json(path: str, value: dict) -> None:
    """Write a file that is either whole or not there."""
    with open(path + '.part', 'w') as file:
        json.dump(value, file, indent=2)
    os.replace(path + '.part', path)


def read_json(path: str) -> dict:
    """Read a file of :func:`write_json`; an empty dict where there is none."""
    if not osp.exists(path):
        return {}
    with open(path) as file:
        return json.load(file)


@contextlib.contextmanager
def quiet():
    """Keep mmengine's log off the screen; its file in the work folder holds all of it."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try:
                yield
            except Exception:
                sys.__stderr__.write(errors.getvalue())
                raise


def train_run(arm: str, seed: int, epochs: int, work_dir: str,
              on_epoch: Optional[Callable[[int, float], None]] = None, hooks: tuple = ()) -> Dict:
    """Train one arm with one seed, or read its result where it is finished.

    Args:
        arm: ``'baseline'`` or ``'afan'``.
        seed: Of the run; arms with the same seed see the same images in the same order.
        epochs: Length of training.
        work_dir: Folder of the demo.
        on_epoch: Called after every epoch with its number and the loss.
        hooks: Further mmengine hooks.

    Returns:
        ``accuracy`` in percent on the test split at the last epoch, ``command``, and whether it was ``reused``.
    """
    arguments = train_command(arm, seed, epochs, work_dir)
    cfg = make_config(arguments)
    result_path = osp.join(cfg.work_dir, 'result.json')
    identity = fingerprint(cfg)
    result = read_json(result_path)
    if result.get('fingerprint') == identity:
        return dict(result, reused=True)
    start_path = osp.join(cfg.work_dir, 'started.json')
    started = read_json(start_path)
    if started and started.get('fingerprint') != identity:
        shutil.rmtree(cfg.work_dir)  # a run of this demo with other settings
    os.makedirs(cfg.work_dir, exist_ok=True)
    write_json(start_path, dict(fingerprint=identity))
    from mmengine.hooks import Hook

    class Report(Hook):

        def after_train_epoch(self, runner) -> None:
            if on_epoch is not None:
                on_epoch(runner.epoch + 1, float(runner.message_hub.get_scalar('train/loss').current()))

    with quiet():
        cfg.experiment_name = f'{arm}_{seed}_{time.time_ns()}'
        runner = build_runner(cfg)
        for hook in (Report(), *hooks):
            runner.register_hook(hook)
        runner.train()
        accuracy = float(runner.val()[METRIC])
    command = 'python tools/train.py ' + ' '.join(arguments)
    write_json(result_path, dict(accuracy=accuracy, command=command, fingerprint=identity))
    return dict(accuracy=accuracy, command=command, reused=False)


def measure_cost(work_dir: str) -> Dict:
    """Measure the step of both arms in turn, in this process."""
    from mmafan.analysis import load_batches, measure_step_cost
    cfg = load_config(osp.join(ROOT, ARMS['afan']))
    with quiet():
        cost = measure_step_cost(cfg, load_batches(cfg, 2), COST_REPEATS, published=False, memory=False).to_dict()
    write_json(osp.join(work_dir, 'cost.json'), cost)
    return cost


def draw_pictures(work_dir: str, seeds: int, epochs: int) -> None:
    """Draw the training curves, and the features of the trained A-FAN model of seed 0 on images of the test split."""
    import torch
    from mmengine.registry import MODELS, init_default_scope
    from mmengine.runner import Runner, find_latest_checkpoint, load_checkpoint

    from mmafan.visualization import attack_features, draw_curves, draw_features
    runs = {TITLES[arm]: [osp.join(work_dir, arm, f'seed_{s}') for s in range(seeds)] for arm in ARMS}
    draw_curves(runs, ('loss', METRIC), {METRIC: 'test accuracy (%)', 'loss': 'training loss (all terms)'},
                {METRIC: 'epoch', 'loss': 'iteration'}, osp.join(work_dir, 'curves.png'))
    cfg = make_config(train_command('afan', 0, epochs, work_dir))
    with quiet():
        init_default_scope(cfg.default_scope)
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
        load_checkpoint(model, find_latest_checkpoint(cfg.work_dir), map_location='cpu')
        batch = next(iter(Runner.build_dataloader(dict(cfg.test_dataloader, batch_size=4), seed=0)))
        name, tap = next(iter(model.afan.config.taps.items()))
        clean, adversarial = attack_features(model, batch, name)
        images = torch.stack(list(batch['inputs']))
        draw_features(clean, adversarial, tap.strengths, images, tap.moments, tap.num_groups,
                      path=osp.join(work_dir, 'features.png'))


def run_classification(work_dir: str, seeds: int, epochs: int, progress: Optional[Progress] = None) -> str:
    """Train all runs, measure, draw and write ``report.md``; return the report."""
    import torch
    from quickstart_report import write_report
    begin = time.monotonic()
    # So small a network gains little from a second thread, and loses all of it where another program runs.
    torch.set_num_threads(1)
    os.makedirs(work_dir, exist_ok=True)
    progress = progress or Progress(seeds * epochs * sum(EPOCH_COST.values()))
    results: Dict[str, List[Dict]] = {arm: [] for arm in ARMS}
    for seed in range(seeds):
        for arm in ARMS:
            last = 0

            def show(epoch: int, loss: float) -> None:
                nonlocal last
                if last == 0:
                    progress.skip((epoch - 1) * EPOCH_COST[arm])
                text = f'{TITLES[arm]}, seed {seed + 1} of {seeds}, epoch {epoch} of {epochs}, loss {loss:.3f}'
                progress.advance(EPOCH_COST[arm], text)
                last = epoch

            results[arm].append(train_run(arm, seed, epochs, work_dir, show))
            progress.skip((epochs - last) * EPOCH_COST[arm])
    progress.close()
    print('measuring the cost of a step and drawing pictures ...', flush=True)
    cost = measure_cost(work_dir)
    draw_pictures(work_dir, seeds, epochs)
    return write_report(work_dir, results, cost, epochs, time.monotonic() - begin)


def main(argv=None) -> None:
    """Run a demo."""
    parser = argparse.ArgumentParser(description='Train a small model with and without A-FAN, and report.')
    parser.add_argument('task', nargs='?', default='classification', help='classification (the only demo there is)')
    parser.add_argument('--work-dir', default='work_dirs/quickstart', help='where the report goes')
    parser.add_argument('--seeds', type=int, default=3, help='runs of each arm (default: 3)')
    parser.add_argument('--epochs', type=int, default=30, help='epochs of each run (default: 30)')
    args = parser.parse_args(argv)
    if args.task != 'classification':
        stop(f'there is no demo {args.task!r}: the only one is classification')
    for name in ('seeds', 'epochs'):
        if getattr(args, name) < 1:
            stop(f'--{name} must be at least 1, got {getattr(args, name)}')
    try:
        report = run_classification(args.work_dir, args.seeds, args.epochs)
    except KeyboardInterrupt:
        print('\ninterrupted; the same command goes on from here')
        raise SystemExit(130)
    print('\n' + report.split('\n## ', 2)[1].split('\n', 1)[1].strip())
    print(f'\nThe whole report, with curves and pictures: {osp.join(args.work_dir, "report.md")}')


if __name__ == '__main__':
    main()
