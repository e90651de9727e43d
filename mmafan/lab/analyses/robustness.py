"""How much accuracy is left under pixel attacks and common corruptions, for one or several checkpoints of a config.

Classifiers: accuracy under projected gradient descent on the pixels. Every codebase: the metric of the config on its
test data with ImageNet-C's corruptions, by the ordinary test. Every further checkpoint is compared with the first.

The attack is that of the adversarial-robustness-toolbox: of the three libraries in common use it is the one with a
release in 2025, and all that it requires is in the pinned sets already, while torchattacks wants requests 2.25.
docs/analyses.md says what the numbers mean.
"""
from __future__ import annotations

import argparse
import copy
import os.path as osp
import sys
import time
from numbers import Real
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ..configs import build_runner, complete_dataloaders, load_config
from ..errors import stop
from ..faults import require_whole
from ..study.runs import quiet
from ..trained import label_checkpoints, load_labelled, load_trained, make_parser, positive, run_tool

GROUPS = ('common', 'validation', 'all', 'noise', 'blur', 'weather', 'digital')
# Of an evaluator's metrics, those that tables name first; else its first one.
PREFERRED = ('mIoU', 'accuracy/top1', 'coco/bbox_mAP', 'pascal_voc/mAP')


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser('Accuracy under pixel attacks and common corruptions.', 'robustness.png', 4, several=True)
    parser.add_argument('--pgd-radii', nargs='+', type=float, metavar='R',
                        help='radii of the attack in 1/255 (default: 1 2 4 8 for a classifier)')
    parser.add_argument('--no-pgd', action='store_true', help='no pixel attack')
    parser.add_argument('--pgd-steps', type=positive, default=10, help='steps of the attack (default: 10)')
    parser.add_argument('--corruptions', nargs='+', default=['common'], metavar='NAME',
                        help=f'names or groups ({", ".join(GROUPS)}), or none (default: common, which has 15)')
    parser.add_argument('--severities', nargs='+', type=int, default=[1, 2, 3, 4, 5], choices=[1, 2, 3, 4, 5],
                        metavar='1..5', help='severities of the corruptions (default: all five)')
    parser.add_argument('--metric', help="of the config's evaluator (default: the one that tables name first)")
    parser.add_argument('--work-dir', help="for the logs of the tests (default: work_dirs/robustness/<config's name>)")
    return parser.parse_args(argv)


def choose_corruptions(given: List[str]) -> List[str]:
    """Return the names that were asked for, groups spelled out."""
    if given == ['none']:
        return []
    from ...analysis.corruptions import corruption_names
    known, names = corruption_names('all'), []
    for name in given:
        if name not in known and name not in GROUPS:
            stop(f'--corruptions must name corruptions ({", ".join(known)}), groups ({", ".join(GROUPS)}) or none, got '
                 f'{name!r}')
        names += [name] if name in known else corruption_names(name)
    return list(dict.fromkeys(names))


def choose_metric(metrics: Dict[str, Any], wanted: Any) -> str:
    """Return the metric to compare by."""
    names = [name for name, value in metrics.items() if isinstance(value, Real)]  # numpy's, too
    if wanted is not None and wanted not in names:
        stop(f'--metric must be one of {names}, got {wanted!r}')
    if not names:
        stop(f'test_evaluator must give a number, got {metrics}')
    return wanted or next((name for name in PREFERRED if name in names), names[0])


def usable_corruptions(cfg: Any, names: List[str]) -> Tuple[List[str], Dict[str, str]]:
    """Split the corruptions into those that work on the test images, and reasons against the others."""
    from mmengine.registry import DATASETS, init_default_scope

    from ...analysis.corruptions import find_unusable, insert_corruption
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    with quiet():
        skipped = find_unusable(DATASETS.build(insert_corruption(cfg.test_dataloader, None)['dataset']), names)
    for name, reason in skipped.items():
        print(f'skipped: {reason}', file=sys.stderr, flush=True)
    return [name for name in names if name not in skipped], skipped


def run_tests(cfg: Any, checkpoint: str, conditions: List[Tuple[str, int]], label: str) -> List[Dict[str, float]]:
    """Test a checkpoint as ``tools/test.py`` does, then with every corruption; return the metrics in that order."""
    from ...analysis.corruptions import insert_corruption
    cfg = copy.deepcopy(cfg)
    cfg.load_from = checkpoint
    cfg.experiment_name = f'robustness_{time.time_ns()}'
    if cfg.get('visualizer'):  # mmengine keeps one for each name
        cfg.visualizer.name = cfg.experiment_name
    with quiet():
        runner = build_runner(cfg)
        found = [runner.test()]
    for corruption, severity in conditions:
        print(f'{label}: {corruption} {severity}', file=sys.stderr, flush=True)
        with quiet():
            loop = runner.build_test_loop(dict(
                cfg.test_cfg, type=cfg.test_cfg.get('type') or 'TestLoop',
                dataloader=insert_corruption(cfg.test_dataloader, corruption, severity),
                evaluator=copy.deepcopy(cfg.test_evaluator)))
            found.append(loop.run())
    return found


def measure_corruptions(args: argparse.Namespace, cfg: Any, checkpoints: Dict[str, str],
                        names: List[str]) -> Dict[str, Any]:
    """Measure the config's metric by checkpoint, corruption and severity."""
    from ...analysis.corruptions import summarise_corruptions
    names, skipped = usable_corruptions(cfg, names)
    if not names:
        return dict(skipped=skipped)
    severities = sorted(set(args.severities))
    conditions = [(name, severity) for name in names for severity in severities]
    values, metric = {}, args.metric
    for label, path in checkpoints.items():
        metrics = run_tests(cfg, path, conditions, label)
        metric = choose_metric(metrics[0], metric)
        clean, *others = [float(found[metric]) for found in metrics]
        table: Dict[str, Dict[int, float]] = {name: {} for name in names}
        for (name, severity), value in zip(conditions, others):
            table[name][severity] = value
        values[label] = dict(clean=clean, values=table, **summarise_corruptions(clean, table))
    return dict(metric=metric, skipped=skipped, checkpoints=values)


def measure(args: argparse.Namespace) -> Dict[str, Any]:
    """Measure everything, and draw it."""
    import torch
    cfg = load_config(args.config, args.cfg_options)
    checkpoints = label_checkpoints(args.checkpoint)
    for path in checkpoints.values():
        require_whole(path)
    classifier = cfg.get('default_scope') == 'mmpretrain'
    if args.pgd_radii and not classifier:
        stop(f'--pgd-radii needs a classifier of mmpretrain, got a config of {cfg.get("default_scope")}: leave it out')
    radii = [] if args.no_pgd or not classifier else sorted(set(args.pgd_radii or [1, 2, 4, 8]))
    names = choose_corruptions(args.corruptions)
    if not radii and not names:
        stop('there is nothing to measure: name --pgd-radii (classifiers) or --corruptions')
    if isinstance(cfg.test_dataloader, list):
        stop('test_dataloader must be one data loader for --corruptions, got a list')
    from mmengine.device import get_device

    from ...analysis.robustness import measure_pgd
    from ...visualization import draw_robustness
    from ..cpu import adapt_to_cpu
    if names and (args.device or get_device()).partition(':')[0] != get_device():
        stop(f'--device must be {get_device()!r} for --corruptions, which mmengine tests there, got {args.device!r}; '
             'CUDA_VISIBLE_DEVICES chooses the GPU')
    cfg.launcher = 'none'
    cfg.work_dir = args.work_dir or osp.join('work_dirs', 'robustness', osp.splitext(osp.basename(args.config))[0])
    complete_dataloaders(cfg)
    adapt_to_cpu(cfg)
    result: Dict[str, Any] = dict(config=args.config, files=checkpoints, torch=torch.__version__)
    if radii:
        batches = load_labelled(cfg, args.num_batches, args.split, args.batch_size, args.seed)
        result['pgd'] = dict(steps=args.pgd_steps, split=args.split, checkpoints={
            label: measure_pgd(load_trained(args.config, path, args.cfg_options, args.device).model, batches, radii,
                               args.pgd_steps, args.seed) for label, path in checkpoints.items()})
    if names:
        result['corruptions'] = measure_corruptions(args, cfg, checkpoints, names)
    draw_robustness(result, args.out)
    return dict(result, picture=args.out)


def report(result: Dict[str, Any]) -> str:
    """Lay the result out as markdown tables."""
    labels, lines = list(result['files']), []

    def add_table(title: str, rows: List[Tuple[str, List[Any]]]) -> None:
        differences = [f'{label} - {labels[0]}' for label in labels[1:]]
        lines.extend([f'| {" | ".join([title, *labels, *differences])} |', '|---' * (2 * len(labels)) + '|'])
        for name, values in rows:
            cells = ['' if v is None else f'{v:.4g}' for v in values]
            cells += ['' if None in (v, values[0]) else f'{v - values[0]:+.4g}' for v in values[1:]]
            lines.append(f'| {" | ".join([name, *cells])} |')
        lines.append('')

    pgd = result.get('pgd')
    if pgd:
        runs = [pgd['checkpoints'][label] for label in labels]
        rows = [('clean', [run['clean'] for run in runs])]
        rows += [(f'{radius:g}', [run['accuracy'][radius] for run in runs]) for radius in runs[0]['accuracy']]
        lines += [f'Accuracy in percent on {runs[0]["images"]} images of {pgd["split"]} under PGD with {pgd["steps"]} '
                  f'steps:', '']
        add_table('radius, 1/255', rows)
    found = result.get('corruptions') or {}
    if 'checkpoints' in found:
        runs = [found['checkpoints'][label] for label in labels]
        lines += [f'{found["metric"]} on the test data, mean over the severities '
                  f'{", ".join(map(str, runs[0]["severity"]))}:', '']
        rows = [('clean', [run['clean'] for run in runs])]
        rows += [(name, [run['corruption'][name] for run in runs]) for name in runs[0]['corruption']]
        rows += [(f'all, severity {s}', [run['severity'][s] for run in runs]) for s in runs[0]['severity']]
        add_table('corruption', rows + [('mean of all', [run['mean'] for run in runs]),
                                        ('mean / clean', [run['relative'] for run in runs])])
    for reason in (found.get('skipped') or {}).values():
        lines.append(f'skipped: {reason}')
    return '\n'.join(lines + [f'picture: {result["picture"]}'])


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Measure, draw and print."""
    run_tool(parse_args(argv), measure, report)
