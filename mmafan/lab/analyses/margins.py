"""Measure the margins of a classifier at its input and its layers, for one checkpoint or several side by side.

The distance to the decision boundary in the space of each layer, to first order, over the spread of the layer's feature
(mmafan/analysis/margins.py has the definition). For classifiers, with or without A-FAN; checkpoints of stock and A-FAN
models load into either.
"""
from __future__ import annotations

import argparse
import os.path as osp
from typing import Any, Dict, Optional, Sequence

from ..trained import (label_checkpoints, load_config, load_labelled, load_trained, load_weights, make_parser, run_tool,
                       stop)

NORMS = ('l2', 'linf')


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser('Measure the margins of a classifier, layer by layer.', 'margins.png', num_batches=4,
                         several=True)
    parser.add_argument('--layers', nargs='+', metavar='NAME',
                        help='modules to look at (default: the blocks of the backbone, the neck and the head)')
    parser.add_argument('--norm', choices=NORMS, default='l2', help='norm of the distances (default: l2)')
    return parser.parse_args(argv)


def measure(args: argparse.Namespace) -> dict:
    """Measure and draw; return plain numbers."""
    checkpoints = label_checkpoints(args.checkpoint)
    scope = load_config(args.config, args.cfg_options).get('default_scope')
    if scope in ('mmdet', 'mmseg'):
        stop(f'margins are those of a classifier: default_scope must be that of a classification codebase, such as '
             f"'mmpretrain', got {scope!r}")
    trained = load_trained(args.config, next(iter(checkpoints.values())), args.cfg_options, args.device)
    import numpy as np

    from ...analysis.margins import measure_margins
    from ...visualization import draw_margins
    batches = load_labelled(trained.cfg, args.num_batches, args.split, args.batch_size, args.seed)
    prepared = [trained.prepare(batch) for batch in batches]
    results: Dict[str, Any] = {}
    for label, checkpoint in checkpoints.items():
        load_weights(trained.model, checkpoint, args.config)
        distances, margins = measure_margins(trained.model, prepared, args.layers, args.norm)
        results[label] = dict(
            checkpoint=checkpoint, accuracy=float((margins > 0).double().mean()),
            layers={name: [float(q) for q in np.percentile(values.numpy(), (25, 50, 75))]
                    for name, values in distances.items()})
    draw_margins({label: result['layers'] for label, result in results.items()}, args.out,
                 f'{osp.basename(args.config)}: median and quartiles', args.norm)
    return dict(config=args.config, split=args.split, num_samples=sum(len(b['inputs']) for b in prepared),
                norm=args.norm, seed=args.seed, picture=args.out, checkpoints=results)


def report(result: dict) -> str:
    """Lay the result out as text."""
    checkpoints = result['checkpoints']
    rows = {'layer': list(checkpoints)}
    for name in next(iter(checkpoints.values()))['layers']:
        quartiles = [values['layers'][name] for values in checkpoints.values()]
        rows[name] = [f'{middle:.4f} [{low:.4f}, {high:.4f}]' for low, middle, high in quartiles]
    rows['accuracy'] = [f'{values["accuracy"]:.2%}' for values in checkpoints.values()]
    first = max(map(len, rows))
    widths = [max(map(len, column)) + 3 for column in zip(*rows.values())]
    lines = [f'{osp.basename(result["config"])}: distance to the boundary in {result["norm"]}, over the spread of the '
             f'feature; median [quartiles] of {result["num_samples"]} samples ({result["split"]})', '']
    lines += [f'{name:{first}}' + ''.join(f'{cell:>{width}}' for cell, width in zip(cells, widths))
              for name, cells in rows.items()]
    return '\n'.join([*lines, '', f'picture: {result["picture"]}'])


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Measure, draw and print."""
    run_tool(parse_args(argv), measure, report)
