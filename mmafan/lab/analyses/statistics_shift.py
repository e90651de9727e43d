"""Measure how far the statistics of the features move, layer by layer, when a tap of A-FAN is attacked.

For the tap's own feature and the modules after it: the shift of mean and deviation by the perturbed feature, by the
re-injected one, and by random sign noise of equal size in place of the attack (mmafan/analysis/statistics_shift.py has
the definitions). For any A-FAN config, with the checkpoint of an A-FAN model or of the stock one.
"""
from __future__ import annotations

import argparse
import os.path as osp
from typing import Optional, Sequence

from ..trained import load_labelled, load_trained, make_parser, require_afan, run_tool


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser('Measure how far the statistics of features move when a tap is attacked.',
                         'statistics_shift.png', num_batches=4)
    parser.add_argument('--tap', help='name of the tap in afan.taps (default: the first)')
    parser.add_argument('--modules', nargs='+', metavar='NAME',
                        help='modules to look at, such as backbone.layer3 (default: the blocks after the tap)')
    parser.add_argument('--strength', type=float, default=1.0,
                        help='fraction of the full perturbation, in (0, 1] (default: 1)')
    return parser.parse_args(argv)


def measure(args: argparse.Namespace) -> dict:
    """Measure and draw; return plain numbers."""
    trained = load_trained(args.config, args.checkpoint, args.cfg_options, args.device)
    from ...analysis.statistics_shift import measure_statistics_shift
    from ...visualization import draw_statistics_shift
    require_afan(trained)
    tap = args.tap or next(iter(trained.model.afan.config.taps))
    batches = load_labelled(trained.cfg, args.num_batches, args.split, args.batch_size, args.seed)
    prepared = [trained.prepare(batch) for batch in batches]
    result = measure_statistics_shift(trained.model, prepared, tap, args.strength, args.modules, args.seed)
    draw_statistics_shift(result['layers'], args.out,
                          f'{osp.basename(args.config)}, tap {tap} at {trained.model.afan.config.taps[tap].module}')
    layers = {arm: {name: shift._asdict() for name, shift in shifts.items()}
              for arm, shifts in result['layers'].items()}
    return dict(config=args.config, checkpoint=args.checkpoint, tap=tap, split=args.split,
                num_samples=sum(len(batch['inputs']) for batch in prepared), seed=args.seed, picture=args.out,
                **dict(result, layers=layers))


def report(result: dict) -> str:
    """Lay the result out as text."""
    arms = list(result['layers'])
    lines = [f'{osp.basename(result["config"])}: tap {result["tap"]}, strength {result["strength"]:g}, perturbation of '
             f'{result["relative_size"]:.3g} deviations of the feature, {result["num_samples"]} samples '
             f'({result["split"]})', '', 'loss: ' + ', '.join(f'{a} {v:.4f}' for a, v in result['losses'].items())]
    first = result['layers'][arms[0]]
    width = max(len('layer'), *(len(name) for name in first))
    for field, title in (('mean', 'shift of the mean, in clean deviations'),
                         ('deviation', 'shift of the deviation, |log ratio|')):
        lines += ['', title, f'{"layer":{width}}  ' + ''.join(f'{arm:>19}' for arm in arms)
                  + f'{"channels":>10}']
        for name, shift in first.items():
            values = ''.join(f'{result["layers"][arm][name][field]:>19.4f}' for arm in arms)
            lines.append(f'{name:{width}}  {values}{shift["kept"]:>10.1%}')
    return '\n'.join([*lines, '', f'picture: {result["picture"]}'])


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Measure, draw and print."""
    run_tool(parse_args(argv), measure, report)
