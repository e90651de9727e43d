"""Test (and evaluate) a checkpoint with a config of mmpretrain, mmdet or mmseg, with or without A-FAN."""
from __future__ import annotations

import argparse
import os
from copy import deepcopy
from typing import Any, Optional, Sequence

from .arguments import add_common_arguments
from .configs import build_runner, complete_dataloaders, load_config, set_work_dir
from .errors import require_file, stop
from .faults import require_whole, trust_checkpoints
from .mistakes import check_fields, check_folder, check_launcher, held_back, mistakes_end, require_weights_of

PREDICTIONS = ('.pkl', '.pickle')


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line; the options are those of the codebases' own ``test.py``."""
    parser = argparse.ArgumentParser(
        description='Test a checkpoint with a config of mmpretrain, mmdet or mmseg, with or without A-FAN.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    add_common_arguments(parser)
    parser.add_argument(
        '--out',
        help='write the predictions to this .pkl file or the metrics to this .json file; for mmseg also a folder, '
        'in which the predicted maps are stored as pictures')
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--show-dir', help='folder for pictures with predictions')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds a window stays open (default: 2)')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    args = parser.parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def use_visualization(cfg: Any, args: argparse.Namespace) -> None:
    """Switch on the visualization hook of the config's codebase, in place."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        stop('--show and --show-dir need a visualization hook in the config: default_hooks.visualization')
    scope = cfg.get('default_scope')
    hook['enable' if scope == 'mmpretrain' else 'draw'] = True
    if args.show:
        hook['show'] = True
        hook['wait_time'] = args.wait_time
    if args.show_dir:
        if scope == 'mmseg':
            cfg.visualizer['save_dir'] = args.show_dir
        else:
            hook['out_dir' if scope == 'mmpretrain' else 'test_out_dir'] = args.show_dir


def use_tta(cfg: Any) -> None:
    """Wrap the model for test-time augmentation, in place: as the config says, or by flipping where it is silent."""
    scope = cfg.get('default_scope')
    data = cfg.test_dataloader.dataset
    while 'dataset' in data:
        data = data['dataset']
    if 'tta_model' not in cfg:
        defaults = dict(
            mmpretrain=dict(type='mmpretrain.AverageClsScoreTTA'),
            mmdet=dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)))
        if scope not in defaults:
            stop('--tta needs tta_model and tta_pipeline in the config')
        cfg.tta_model = defaults[scope]
    if 'tta_pipeline' not in cfg:
        if scope not in ('mmpretrain', 'mmdet'):
            stop('--tta needs tta_pipeline in the config')
        pack = deepcopy(data.pipeline[-1])
        if scope == 'mmdet':
            pack['meta_keys'] = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip',
                                 'flip_direction')
        flips = [dict(type='RandomFlip', prob=1.), dict(type='RandomFlip', prob=0.)]
        cfg.tta_pipeline = [*data.pipeline[:-1], dict(type='TestTimeAug', transforms=[flips, [pack]])]
    cfg.model = dict(cfg.tta_model, module=cfg.model)
    data.pipeline = cfg.tta_pipeline


def check_out(cfg: Any, args: argparse.Namespace) -> None:
    """Stop where ``--out`` is no file or folder that can be written to by this codebase."""
    if args.out is None or args.out.endswith(PREDICTIONS + ('.json', )):
        return
    if cfg.get('default_scope') != 'mmseg':
        stop(f'--out must end in .pkl (predictions) or .json (metrics), got {args.out!r}')
    for evaluator in cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]:
        evaluator.update(output_dir=args.out, keep_results=True)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Test."""
    args = parse_args(argv)
    require_file(args.checkpoint, 'checkpoint', ('.pth', ))
    if args.trust_checkpoint:
        trust_checkpoints()
    check_launcher(args.launcher)
    cfg = load_config(args.config, args.cfg_options)
    check_fields(cfg)
    cfg.launcher = args.launcher
    cfg.load_from = require_whole(args.checkpoint)
    set_work_dir(cfg, args)
    complete_dataloaders(cfg)
    check_out(cfg, args)
    if args.show or args.show_dir:
        use_visualization(cfg, args)
    if args.tta:
        use_tta(cfg)
    from .cpu import adapt_to_cpu
    adapt_to_cpu(cfg)
    with mistakes_end():
        check_folder(cfg.work_dir)
        with held_back():
            runner = build_runner(cfg)
            require_weights_of(runner.model, cfg.load_from)
    if args.out is not None and args.out.endswith(PREDICTIONS):
        if cfg.get('default_scope') == 'mmdet':
            from mmdet.evaluation import DumpDetResults as DumpResults
        else:
            from mmengine.evaluator import DumpResults
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    with mistakes_end():
        metrics = runner.test()
    if args.out is not None and args.out.endswith('.json'):
        from mmengine.dist import is_main_process
        from mmengine.fileio import dump
        if is_main_process():
            dump(metrics, args.out)
    from ..compat import end_process
    end_process()
