"""Train a config with and without A-FAN from the same seeds, and print the results side by side.

The *baseline* is the same config with the stock model type, without ``afan`` and without its hook. Runs of the same
seed start from the same weights and see the same samples in the same order. A killed comparison goes on where it was
when the same command is called again. Beside the metrics of the last validation it prints what a step costs, measured
with the steps of both in turn (mmafan/analysis/cost.py). Few seeds are no evidence; see docs/method.md for the controls
a claim needs.
"""
from __future__ import annotations

import argparse
import os.path as osp
import sys
from typing import Any, Dict, Optional, Sequence

import torch

from ..arguments import CFG_OPTIONS_HELP, CfgOptions, require_positive
from ..configs import load_config
from ..errors import require_file, stop
from ..faults import working_in
from ..mistakes import mistakes_end
from ..study.compute import measure_once
from ..study.recipe import Arm, Study, run_config
from ..study.report import Run
from ..study.runner import here, train_all
from ..study.runs import write_json

ARMS = dict(baseline='baseline', afan='A-FAN')


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Train a config with and without A-FAN, and compare.')
    parser.add_argument('config', help='config file whose model is mmafan.AFAN<Stock>')
    parser.add_argument('--seeds', type=int, default=1, help='runs of each arm, with seeds 0, 1, ... (default: 1)')
    parser.add_argument('--work-dir', help='where runs and results go (default: work_dirs/compare/<config name>)')
    parser.add_argument('--cost-repeats', type=int, default=9,
                        help='rounds of the cost measurement, 0 for none (default: 9)')
    parser.add_argument('--threads', type=int, help='threads of torch on the CPU')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help=CFG_OPTIONS_HELP)
    args = parser.parse_args(argv)
    require_positive(args, 'seeds', 'threads')
    if args.cost_repeats < 0:
        stop(f'--cost-repeats must be at least 0, got {args.cost_repeats}')
    return args


def comparison(args: argparse.Namespace) -> Study:
    """Return the two arms as a study."""
    return Study(path='', config=args.config, arms=dict(baseline=Arm(stock=True), afan=Arm()), metric='',
                 seeds=range(args.seeds), options=args.cfg_options or {})


def table(results: dict, cost: dict) -> str:
    """Lay metrics and cost out as a markdown table.

    Args:
        results: For each arm the metrics of its runs, in the order of the seeds.
        cost: Of the step, empty where it was not measured.
    """
    names = [k for k in results['baseline'][0] if all(k in run for runs in results.values() for run in runs)]
    lines = ['| metric | seed | baseline | A-FAN | difference |', '|---|---|---|---|---|']
    for name in names:
        pairs = [(runs[0][name], runs[1][name]) for runs in zip(results['baseline'], results['afan'])]
        lines += [f'| {name} | {seed} | {b:.4f} | {a:.4f} | {a - b:+.4f} |' for seed, (b, a) in enumerate(pairs)]
        if len(pairs) > 1:
            b, a = (sum(p[i] for p in pairs) / len(pairs) for i in range(2))
            lines.append(f'| {name} | mean | {b:.4f} | {a:.4f} | {a - b:+.4f} |')
    if cost:
        lines.append(f'| step, relative | | 1 | {cost["ratios"]["afan_over_baseline"]:.3f} '
                     f'(theory {cost["theory"]:.3f}) | |')
    return '\n'.join(lines)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Train, measure, print."""
    args = parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    require_file(args.config, 'config file', ('.py', ))
    work_dir = args.work_dir or osp.join('work_dirs', 'compare', osp.splitext(osp.basename(args.config))[0])
    study = comparison(args)
    try:
        for arm in ARMS:  # a wrong config is told before anything runs
            run_config(study, arm, 0, work_dir)
    except (TypeError, ValueError) as error:
        stop(str(error))
    with mistakes_end(), working_in(work_dir):
        run(args, study, work_dir)


def run(args: argparse.Namespace, study: Study, work_dir: str) -> None:
    """Train what is not finished, measure, print."""

    def show(run: Run, epoch: int, loss: float) -> None:
        print(f'{ARMS[run[1]]}, seed {run[2]}, epoch {epoch}: training loss {loss:.4f}', flush=True,
              file=sys.__stdout__)  # the run's own output is held back

    def tell(run: Run, found: Dict[str, Any], count: str) -> None:
        print(f'{ARMS[run[1]]}, seed {run[2]} {"was" if found["reused"] else "is"} finished: '
              + ', '.join(f'{k} {v:.4f}' for k, v in found['metrics'].items()), flush=True)

    found = train_all([study], work_dir, lambda runs: here(runs, study, work_dir, show), tell)
    results = {arm: [{name: value for name, value in found['', arm, seed]['metrics'].items()
                      if not name.startswith('best ')} for seed in study.seeds] for arm in ARMS}
    cost = {}
    if args.cost_repeats:
        print('measuring the cost of a step ...', flush=True)
        cost = measure_once(load_config(args.config, args.cfg_options), args.cost_repeats,
                            osp.join(work_dir, 'cost.json'))
    text = table(results, cost)
    write_json(osp.join(work_dir, 'comparison.json'), dict(results=results, cost=cost))
    with open(osp.join(work_dir, 'comparison.md'), 'w', encoding='utf-8') as file:
        file.write(text + '\n')
    print('\n' + text)
