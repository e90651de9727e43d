"""Try every family of stock models with A-FAN: the gradients of a step beside the stock model's, and a prediction.

One config stands for a family, a folder of the configs that the codebase ships. Type and `afan` are overridden, the
taps are those that `mmafan taps` recommends, and images are small. `docs/conformance.md` says what is proven.
"""
from __future__ import annotations

import argparse
import signal
import sys
from typing import Optional, Sequence

from ...conformance import run_sweep
from ...conformance.sweep import read_rows
from ...conformance.table import render_table, summarize, write_table
from ..errors import stop


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Try families of stock models with A-FAN.')
    parser.add_argument('--codebase', help='mmpretrain, mmdet or mmseg')
    parser.add_argument('--family', nargs='+', help='folders of its configs (default: all)')
    parser.add_argument('--json', metavar='FILE', help='file of the rows; families that it has are left out')
    parser.add_argument('--again', nargs='+', default=[], choices=['passed', 'explained', 'failed'],
                        help='outcomes whose rows are made anew')
    parser.add_argument('--jobs', type=int, default=1, help='processes at a time (default: 1)')
    parser.add_argument('--seconds', type=float, default=600.0, help='time for a family (default: 600)')
    parser.add_argument('--device', default='cpu', help='where they are tried, such as cuda (default: cpu)')
    parser.add_argument('--table', nargs='+', metavar='FILE', help='only print the table of these rows')
    parser.add_argument('--into', metavar='DOCUMENT', help='with --table: write it below the mark of this document')
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Try the families; status 1 where one has failed."""
    args = parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that its processes end with it
    if args.table:
        table = render_table([row for path in args.table for row in read_rows(path)])
        write_table(args.into, table) if args.into else print(table)
        return
    if args.codebase is None:
        stop('--codebase is missing: name mmpretrain, mmdet or mmseg')
    try:
        rows = run_sweep(args.codebase, args.family, args.json, args.jobs, args.seconds, args.again,
                         say=lambda line: print(line, flush=True), device=args.device)
    except (ValueError, FileNotFoundError) as error:
        stop(str(error))
    print(summarize(rows))
    sys.exit(any(row['outcome'] == 'failed' for row in rows))
