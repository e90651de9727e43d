"""``mmafan doctor [CONFIG]``: what is installed and does not fit; with a config, one step of it on random images.

``--prove`` compares that step with the stock model's, see :func:`mmafan.analysis.prove`.
"""
from __future__ import annotations

import argparse
from typing import List

from ..analysis.exactness import usable_device
from .configs import read_config
from .dry_run import check_config, dry_run, prove_config
from .environment import Finding, check_environment, check_operators

MARKS = {'ok': '  ok ', 'note': 'note ', 'problem': 'WRONG'}


def report(findings: List[Finding]) -> str:
    """Lay findings out as text, remedies below."""
    lines = []
    for finding in findings:
        lines.append(f'{MARKS[finding.level]}  {finding.text}')
        if finding.remedy:
            lines.append(f'         -> {finding.remedy}')
    return '\n'.join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument('config', nargs='?', help='config with A-FAN to try one step of (default: none)')
    parser.add_argument('--prove', action='store_true', help='prove gradients, losses and state of its steps against '
                        'those of the stock model')
    parser.add_argument('--device', default='cpu', help='with --prove: where, such as cuda (default: %(default)s)')


def run(args: argparse.Namespace) -> None:
    """Print what was found; status 1 where something is wrong."""
    if args.prove and args.config is None:
        raise ValueError('--prove needs a config, whose steps are compared with those of the stock model')
    findings = check_environment()
    operators = check_operators()
    findings += [operators] if operators is not None else []
    if args.config is not None:
        cfg = read_config(args.config)
        told = check_config(cfg)
        findings += told
        if all(finding.level != 'problem' for finding in told):
            findings += dry_run(cfg)
            findings += prove_config(cfg, usable_device(args.device)) if args.prove else []
    print(report(findings))
    if any(finding.level == 'problem' for finding in findings):
        raise SystemExit(1)
