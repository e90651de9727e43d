"""Train a model from a config of mmpretrain, mmdet or mmseg, with or without A-FAN."""
from __future__ import annotations

import argparse
import logging
import os
from typing import Any, Optional, Sequence

from .arguments import add_common_arguments
from .configs import build_runner, complete_dataloaders, load_config, set_work_dir
from .errors import require_file, stop
from .faults import disk_full_ends, go_on_where_it_was, no_space, require_whole, trust_checkpoints
from .mistakes import check_fields, check_folder, check_launcher, held_back, mistakes_end, require_weights_of


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line; the options are those of the codebases' own ``train.py``."""
    parser = argparse.ArgumentParser(
        description='Train a model from a config of mmpretrain, mmdet or mmseg, with or without A-FAN.')
    parser.add_argument('config', help='config file')
    add_common_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint, or from the latest one in the work folder where none is named')
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the real batch size over auto_scale_lr.base_batch_size')
    parser.add_argument(
        '--no-resumable-seed',
        action='store_true',
        help='leave ResumableSeedHook out: a resumed run then draws other random numbers than an uninterrupted one')
    args = parser.parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def use_amp(cfg: Any) -> None:
    """Switch the optimizer wrapper to mixed precision with a dynamic loss scale, in place."""
    from ..naming import type_name
    kind = type_name(cfg.optim_wrapper.get('type', 'OptimWrapper'))
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        stop(f"--amp needs optim_wrapper.type='OptimWrapper', this config has {kind!r}")
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def choose_wrapper(cfg: Any) -> None:
    """Let A-FAN train in two phases under DDP, in place, unless the config says how processes work together."""
    afan = cfg.get('model', {}).get('afan')
    if (afan is None or afan.get('schedule') in ('single_graph', 'joined') or cfg.launcher == 'none'
            or cfg.get('runner_type', 'Runner') != 'Runner'):
        return
    given = cfg.get('model_wrapper_cfg') or dict(  # as the runner has it for its own wrapper
        broadcast_buffers=False, find_unused_parameters=cfg.get('find_unused_parameters', False))
    cfg.model_wrapper_cfg = dict(dict(type='mmafan.AFANDistributedDataParallel'), **given)


def apply_args(cfg: Any, args: argparse.Namespace) -> None:
    """Write the command line's choices into the config, in place."""
    cfg.launcher = args.launcher
    set_work_dir(cfg, args)
    complete_dataloaders(cfg)
    choose_wrapper(cfg)
    if args.amp:
        use_amp(cfg)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            stop('--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config: the batch size, over '
                 'all processes, that its learning rate is meant for')
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        cfg.resume = True  # without a name: from what go_on_where_it_was finds, before training
        if args.resume != 'auto':
            cfg.load_from = require_file(args.resume, 'checkpoint', ('.pth', ))
    if not args.no_resumable_seed:
        from ..naming import type_name
        hooks = list(cfg.get('custom_hooks') or [])
        if not any(type_name(hook.get('type')) == 'ResumableSeedHook' for hook in hooks):
            cfg.custom_hooks = [*hooks, dict(type='mmafan.ResumableSeedHook')]


def train(cfg: Any) -> None:
    """Train, until the end or until the disk is full."""
    logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback in every iteration
    with mistakes_end(), disk_full_ends(no_space(cfg.work_dir, 'the same command with --resume')):
        check_folder(cfg.work_dir)
        with held_back():
            runner = build_runner(cfg)
            if cfg.get('load_from') and not cfg.get('resume'):
                require_weights_of(runner.model, cfg.load_from)
        runner.train()


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Train."""
    args = parse_args(argv)
    if args.trust_checkpoint:
        trust_checkpoints()
    check_launcher(args.launcher)
    cfg = load_config(args.config, args.cfg_options)
    check_fields(cfg)
    apply_args(cfg, args)
    if args.resume == 'auto':
        go_on_where_it_was(cfg)
    elif cfg.get('load_from'):
        require_whole(cfg.load_from, resumable=bool(cfg.get('resume')))
    from .cpu import adapt_to_cpu  # after the arguments, so that --help and a wrong path answer at once
    adapt_to_cpu(cfg)
    if cfg.get('default_scope') == 'mmdet':
        from mmdet.utils import setup_cache_size_limit_of_dynamo
        setup_cache_size_limit_of_dynamo()
    # Where a launcher started several, it repeats at its end what the first process to fail said.
    from torch.distributed.elastic.multiprocessing.errors import record
    record(train)(cfg)
    from ..compat import end_process
    end_process()
