"""Draw the loss around trained weights along two filter-normalised random directions.

The task loss is evaluated on a grid of P x P points, a and b from -R to R, in evaluation mode: the norms keep the
statistics of the checkpoint, and neither their parameters nor biases are moved (mmafan/analysis/landscape.py states the
normalisation). The same random draws serve every checkpoint, each with the filter norms of its own weights. For any
config, with or without A-FAN; the loss is that of clean samples.
"""
from __future__ import annotations

import argparse
import os.path as osp
from typing import Optional, Sequence

from ..trained import label_checkpoints, load_labelled, load_trained, load_weights, make_parser, run_tool, stop


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser('Draw the loss around trained weights.', 'loss_landscape.png', num_batches=2, several=True)
    parser.set_defaults(split='train')
    parser.add_argument('--points', type=int, default=21, help='points of each axis, an odd number (default: 21)')
    parser.add_argument('--range', type=float, default=1.0, dest='reach', metavar='R',
                        help='largest factor of a direction (default: 1)')
    args = parser.parse_args(argv)
    if args.points < 3 or args.points % 2 == 0:
        stop(f'--points must be an odd number of at least 3, so that the weights themselves are a point, got '
             f'{args.points}')
    if not 0 < args.reach < float('inf'):
        stop(f'--range must be a finite number above 0, got {args.reach}')
    return args


def measure(args: argparse.Namespace) -> dict:
    """Measure and draw; return plain numbers, None for a loss that is not finite."""
    checkpoints = label_checkpoints(args.checkpoint)
    trained = load_trained(args.config, next(iter(checkpoints.values())), args.cfg_options, args.device)
    import numpy as np
    import torch

    from ...analysis.landscape import draw_direction, measure_landscape, ring_means
    from ...visualization import draw_landscape
    batches = load_labelled(trained.cfg, args.num_batches, args.split, args.batch_size, args.seed)
    prepared = [trained.prepare(batch) for batch in batches]
    counts = [len(batch['inputs']) for batch in prepared]
    coordinates = [args.reach * (2 * k / (args.points - 1) - 1) for k in range(args.points)]

    def loss() -> float:
        with torch.no_grad():
            losses = [float(trained.loss(batch, args.seed)) for batch in prepared]
        return sum(value * count for value, count in zip(losses, counts)) / sum(counts)

    surfaces = {}
    for label, checkpoint in checkpoints.items():
        load_weights(trained.model, checkpoint, args.config)
        generator = torch.Generator().manual_seed(args.seed)
        directions = draw_direction(trained.model, generator), draw_direction(trained.model, generator)
        surfaces[label] = measure_landscape(trained.model, loss, directions, coordinates)
    draw_landscape(surfaces, coordinates, args.out)
    results = {label: dict(
        checkpoint=checkpoints[label],
        rings={f'{r:g}': _plain(value) for r, value in ring_means(surface, coordinates).items()},
        losses=[[_plain(value) for value in row] for row in surface]) for label, surface in surfaces.items()}
    return dict(config=args.config, split=args.split, num_samples=sum(counts), seed=args.seed,
                coordinates=[float(c) for c in np.round(coordinates, 12)], picture=args.out, checkpoints=results)


def _plain(value: float) -> Optional[float]:
    return float(value) if abs(value) < float('inf') else None


def report(result: dict) -> str:
    """Lay the result out as text."""
    checkpoints = result['checkpoints']
    columns = {label: max(14, len(label) + 2) for label in checkpoints}
    lines = [f'{osp.basename(result["config"])}: mean loss on the squares max(|a|, |b|) = r, {result["num_samples"]} '
             f'samples ({result["split"]}), seed {result["seed"]}', '',
             f'{"r":>8}' + ''.join(f'{label:>{columns[label]}}' for label in checkpoints)]
    for ring in next(iter(checkpoints.values()))['rings']:
        values = {label: c['rings'][ring] for label, c in checkpoints.items()}
        lines.append(f'{ring:>8}' + ''.join(f'{"not finite" if v is None else f"{v:.4f}":>{columns[label]}}'
                                            for label, v in values.items()))
    return '\n'.join([*lines, '', f'picture: {result["picture"]}'])


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Measure, draw and print."""
    run_tool(parse_args(argv), measure, report)
