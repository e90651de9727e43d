"""Sweep the tap and the step size (and the strength) of A-FAN, and draw the differences to the stock model as a map.

It writes a study (configs/studies/README.md) into its work folder and runs it with tools/study.py: one arm for every
tap, step size and strength, and the stock model. So a killed sweep goes on where it was when the same command is called
again, and one with further taps or step sizes keeps the runs it has. docs/analyses.md says what the map shows.
"""
from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import os.path as osp
import pprint
import sys
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ..arguments import CFG_OPTIONS_HELP, CfgOptions
from ..configs import load_config
from ..errors import stop
from ..study import command as study_tool
from ..study.recipe import BASELINE, load_study
from ..study.runner import result_of
from ..study.runs import quiet, write_json
from ..study.statistics import summarise
from ..trained import positive


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Sweep tap and step size of A-FAN against the stock model.')
    parser.add_argument('config', help='config file whose model is mmafan.AFAN<Stock>')
    parser.add_argument('--taps', nargs='+', required=True, metavar='MODULE', help='modules, such as backbone.layer1')
    parser.add_argument('--step-sizes', nargs='+', type=float, required=True, metavar='SIZE',
                        help='in step_unit; 0 is the control that runs the same passes unperturbed')
    parser.add_argument('--strengths', nargs='+', type=float, metavar='S',
                        help='each an arm with this strength alone, in (0, 1] (default: as configured, together)')
    parser.add_argument('--metric', required=True, help='name in the log of the validation, such as mIoU')
    parser.add_argument('--seeds', type=positive, default=3, help='runs of each arm, with seeds 0, 1, ... (default: 3)')
    parser.add_argument('--tap', metavar='NAME', help='which of the taps in the config is moved (default: its first)')
    parser.add_argument('--alone', action='store_true', help="without the config's other taps")
    parser.add_argument('--step-unit', choices=['absolute', 'std'], help='unit of the step sizes (default: config)')
    parser.add_argument('--jobs', type=positive, help='runs at the same time (default: as for tools/study.py)')
    parser.add_argument('--threads', type=positive, default=1, help='threads of torch on the CPU, in each run')
    parser.add_argument('--work-dir', help='for runs and results (default: work_dirs/sweeps/<config name>)')
    parser.add_argument('--out', metavar='PICTURE', help='picture to write (default: sweep.png in the work folder)')
    parser.add_argument('--json', action='store_true', help='print one JSON object, nothing else')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help=CFG_OPTIONS_HELP + '; in every arm')
    return parser.parse_args(argv)


def check_taps(cfg: Any, taps: List[str]) -> None:
    """Stop where a module does not exist, before anything runs."""
    from mmengine.registry import MODELS, init_default_scope

    from ...analysis.arm import baseline_model
    from ...validation import suggest
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    with quiet():
        names = [name for name, _ in MODELS.build(baseline_model(cfg)[0]).named_modules() if name]
    for tap in taps:
        if tap not in (*names, 'inputs'):
            same = [name for name in names if name.count('.') == tap.count('.')]
            stop(f'--taps must name modules of the model, got {tap!r}; {suggest(tap, same or names)}')


def make_arms(args: argparse.Namespace, taps: Dict[str, Any]) -> Dict[str, Tuple[Dict[str, Any], Dict[str, Any]]]:
    """Return, for every arm but the baseline, its cell and what it overrides.

    Args:
        args: Of the command line.
        taps: ``model.afan.taps`` of the config.

    Returns:
        Name to (``tap``, ``step_size``, ``strength``) and the options of a study's arm.
    """
    name = args.tap or next(iter(taps))
    if name not in taps:
        stop(f'--tap must be one of the taps in the config, {", ".join(taps)}, got {name!r}')
    reinject = taps[name].get('reinject', (False, ))
    strongest = reinject[-1] if isinstance(reinject, (tuple, list)) else reinject
    arms: Dict[str, Tuple[Dict[str, Any], Dict[str, Any]]] = {}
    for tap in dict.fromkeys(args.taps):
        for step_size in dict.fromkeys(args.step_sizes):
            for strength in dict.fromkeys(args.strengths or [None]):
                fields: Dict[str, Any] = dict(module=tap, step_size=step_size)
                if args.step_unit:
                    fields['step_unit'] = args.step_unit
                if strength is not None:  # a mask and weights of one entry each fit one strength
                    weight = taps[name].get('weight', 1.0)
                    fields.update(strengths=[strength], reinject=[strongest],
                                  weight=weight[-1] if isinstance(weight, (tuple, list)) else weight)
                label = f'{tap} {step_size:g}' + ('' if strength is None else f' x{strength:g}')
                options = {f'model.afan.taps.{name}.{key}': value for key, value in fields.items()}
                if args.alone:
                    options = {'model.afan.taps': {'_delete_': True, name: {**taps[name], **fields}}}
                arms[label] = dict(tap=tap, step_size=step_size, strength=strength), options
    return arms


def write_study(args: argparse.Namespace, arms: Dict[str, Dict[str, Any]], path: str) -> None:
    """Write the study file."""
    fields = dict(
        config=osp.abspath(args.config), metric=args.metric, seeds=args.seeds, options=args.cfg_options or {},
        arms={BASELINE: dict(stock=True), **{name: dict(options=options) for name, options in arms.items()}})
    text = '\n'.join(f'{key} = {pprint.pformat(value, width=110, sort_dicts=False)}' for key, value in fields.items())
    with open(path, 'w', encoding='utf-8') as file:
        file.write(f'# Written by tools/analysis_tools/sweep.py\n{text}\n')


def check(args: argparse.Namespace, cfg: Any, arms: Dict[str, Any]) -> None:
    """Stop with one sentence where an arm's config is wrong, before anything runs."""
    from ...analysis.arm import baseline_model
    from ...config import AFANConfig
    for name, (_, options) in arms.items():
        changed = copy.deepcopy(cfg)
        changed.merge_from_dict(copy.deepcopy(options))
        try:
            AFANConfig.from_dict(baseline_model(changed)[1])
        except (TypeError, ValueError) as error:
            stop(f'arm {name!r} of the sweep: {error}')


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Write the study, run it, draw and print."""
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    from ...analysis.arm import baseline_model
    try:
        taps = {name: tap for name, tap in baseline_model(cfg)[1]['taps'].items() if tap is not None}
    except ValueError as error:
        stop(str(error))
    made = make_arms(args, {name: dict(tap) for name, tap in taps.items()})
    check(args, cfg, made)
    check_taps(cfg, args.taps)
    work_dir = args.work_dir or osp.join('work_dirs', 'sweeps', osp.splitext(osp.basename(args.config))[0])
    os.makedirs(work_dir, exist_ok=True)
    path = osp.join(work_dir, 'sweep.py')
    write_study(args, {name: options for name, (_, options) in made.items()}, path)
    moved = args.tap or next(iter(taps))
    others = [name for name in taps if name != moved and not args.alone]
    argv_of_study = [path, '--work-dir', work_dir, '--threads', str(args.threads)]
    argv_of_study += [] if args.jobs is None else ['--jobs', str(args.jobs)]
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        study_tool.main(argv_of_study)
    study = load_study(path)[0]
    results = {arm: {seed: float((result_of(study, arm, seed, work_dir) or {})['metrics'][args.metric])
                     for seed in study.seeds} for arm in study.arms}
    rows = {row['arm']: row for row in summarise(study, results, {})}
    cells = [dict(cell, difference=rows[name]['difference'], interval=rows[name]['interval'], mean=rows[name]['mean'])
             for name, (cell, _) in made.items()]
    picture = args.out or osp.join(work_dir, 'sweep.png')
    unit = args.step_unit or taps[moved].get('step_unit', 'absolute')
    from ...visualization import draw_sweep
    draw_sweep(cells, args.metric, unit, picture)
    found = dict(config=args.config, metric=args.metric, tap=moved, other_taps=others, step_unit=unit,
                 seeds=study.seeds, baseline={key: rows[BASELINE][key] for key in ('mean', 'deviation')}, cells=cells,
                 study=path, picture=picture)
    write_json(osp.join(work_dir, 'sweep.json'), found)
    print(json.dumps(found, indent=2) if args.json else '\n'.join(
        ([f'The other taps of the config stayed as they are: {", ".join(others)}'] if others else [])
        + [f'picture: {picture}']))
