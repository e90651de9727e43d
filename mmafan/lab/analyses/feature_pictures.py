"""Draw the features at a tap: clean, perturbed by every strength, and with the perturbed statistics re-injected.

For classifiers, detectors and segmentors. For every image the channel that the attack moves most, and beside it the
difference from the clean feature. docs/analyses.md says what the picture shows.
"""
from __future__ import annotations

import argparse
import os.path as osp
from typing import Any, Dict, List, Optional, Sequence

from ..trained import load_labelled, load_trained, make_parser, positive, require_afan, run_tool, stop


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser('Draw clean, perturbed and re-injected features of a trained model.', 'features.png', 1)
    parser.add_argument('--tap', metavar='NAME', help='which of the taps in the config (default: its first)')
    parser.add_argument('--num-images', type=positive, default=4, help='images to draw, from the first (default: 4)')
    parser.add_argument('--strengths', nargs='+', type=float, metavar='S',
                        help='fractions of the perturbation to draw, in (0, 1] (default: config)')
    return parser.parse_args(argv)


def measure(args: argparse.Namespace) -> Dict[str, Any]:
    """Attack and draw; return the sizes of what was drawn."""
    trained = load_trained(args.config, args.checkpoint, args.cfg_options, args.device)
    from ...visualization import attack_features, collect_pictures, draw_features, make_rows
    require_afan(trained)
    taps = trained.model.afan.config.taps
    name = args.tap or next(iter(taps))
    if name not in taps:
        stop(f'--tap must be one of the taps in the config, {", ".join(taps)}, got {name!r}')
    for strength in args.strengths or ():
        if not 0 < strength <= 1:
            stop(f'--strengths must lie in (0, 1], got {strength:g}')
    tap = taps[name]
    [batch] = load_labelled(trained.cfg, 1, args.split, args.num_images, args.seed)
    clean, adversarial = attack_features(trained.model, trained.prepare(batch), name, prepared=True)
    if clean.dim() != 4:
        stop(f'--tap must name a tap whose feature is a map (N, C, H, W), got {name!r} at {tap.module!r} with '
             f'{tuple(clean.shape)}; the taps of the config are {", ".join(taps)}')
    if tap.channel_dim is not None:
        clean, adversarial = (feature.movedim(tap.channel_dim, 1) for feature in (clean, adversarial))
    strengths = args.strengths or tap.strengths
    loader = trained.cfg[f'{args.split}_dataloader']
    pictures = collect_pictures(batch['inputs'], 'LoadImage' in str(loader))  # mmcv loads BGR
    draw_features(clean, adversarial, strengths, pictures if len(clean) == len(pictures) else None, tap.moments,
                  tap.num_groups, args.num_images, args.out)
    spread = float(clean.float().std())
    sizes = {label: float((feature - clean.float()).pow(2).mean().sqrt()) / spread
             for label, feature in make_rows(clean, adversarial, strengths, tap.moments, tap.num_groups)}
    return dict(config=args.config, checkpoint=args.checkpoint, tap=name, module=tap.module, shape=list(clean.shape),
                deviation=spread, step_size=tap.step_size, step_unit=tap.step_unit, relative_size=sizes,
                picture=args.out)


def report(result: Dict[str, Any]) -> str:
    """Lay the result out as text."""
    lines: List[str] = [
        f'{osp.basename(result["config"])}: tap {result["tap"]} at {result["module"]}, '
        f'{" x ".join(map(str, result["shape"]))}, deviation {result["deviation"]:.4g}, step size '
        f'{result["step_size"]:g} ({result["step_unit"]})', '',
        '| feature | root mean square of the difference from clean, in deviations |', '|---|---|']
    lines += [f'| {label} | {size:.4f} |' for label, size in result['relative_size'].items()]
    return '\n'.join([*lines, '', f'picture: {result["picture"]}'])


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Attack, draw and print."""
    run_tool(parse_args(argv), measure, report)
