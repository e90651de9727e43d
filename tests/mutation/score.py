"""Measure how many small faults in the core the tests find: the mutation score.

    python tests/mutation/score.py [--sample N] [--seed S] [--only TEXT] [--seconds T] [--jobs J]

Makes mutants of the files in FOLDERS with the operators of cosmic-ray, one fault each, in a copy of the repository, and
runs the tests that come to the changed line: those of the file's own test module first, then the quick ones, until one
fails. Prints the score and every mutant that no test has found. What is done is kept in work_dirs/mutation: a run that
was stopped goes on where it was, and mutants that were found stay so. Needs requirements/mutation.txt.
"""
from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from mutant_tests import Measured, choose_tests, measure_tests, run_tests
from mutants import Mutant, choose_mutants

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / 'work_dirs' / 'mutation'
KEPT = WORK / 'results.jsonl'
KNOWN = ROOT / 'tests' / 'mutation' / 'survivors.md'
PRELOADED = ('pytest', 'torch', 'torchvision', 'mmengine.runner', 'mmcv.ops', 'mmpretrain.models', 'mmdet.models',
             'mmseg.models', 'hypothesis', 'coverage')


def copy_repository(tree: Path) -> None:
    """Copy what git knows and what it does not ignore; what lies beside the repository is linked."""
    shutil.rmtree(tree, ignore_errors=True)
    listed = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=ROOT, check=True, text=True,
                            stdout=subprocess.PIPE).stdout
    for name in listed.splitlines():
        if os.path.lexists(ROOT / name):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    shared = tree.parent / 'shared'
    if (ROOT.parent / 'shared').is_dir() and not shared.exists():
        shared.symlink_to(ROOT.parent / 'shared')


# ---------------------------------------------------------------------- the run
def try_mutant(tree: Path, mutant: Mutant, changed: str, tests: Dict[str, Measured], seconds: float) -> Dict[str, Any]:
    """Run the tests of a mutant.

    Returns:
        ``by``, the test that has found it; None where none has.
    """
    path = tree / mutant.path
    source = path.read_text()
    chosen = choose_tests(mutant, source, tests, seconds)
    begin = time.monotonic()
    status: Optional[int] = 0
    told: Dict[str, Any] = {}
    try:
        path.write_text(changed)
        for compiled in path.parent.glob(f'__pycache__/{path.stem}.*'):
            compiled.unlink()
        for part in (chosen[:10], chosen[10:]):  # most are found by a few tests, and all take long to collect
            if part and status == 0:
                files = list(dict.fromkeys(test.partition('::')[0] for test in part))
                limit = 120 + 10 * sum(tests[test].seconds for test in part)
                status, told = run_tests(tree, ['-x', *files], part, limit)
    finally:
        path.write_text(source)
        for compiled in path.parent.glob(f'__pycache__/{path.stem}.*'):
            compiled.unlink()
    by = None if status == 0 else 'no end' if status is None else (told.get('failed') or ['no import'])[0]
    return dict(by=by, tests=len(chosen), seconds=round(time.monotonic() - begin, 1))


def read_results() -> Dict[str, Dict[str, Any]]:
    """Read what is kept: the last result of each mutant."""
    lines = KEPT.read_text().splitlines() if KEPT.exists() else []
    return {found.pop('key'): found for found in map(json.loads, lines)}


def try_mutants(tree: Path, mutants: Sequence[Tuple[Mutant, str]], tests: Dict[str, Measured], seconds: float) -> None:
    """Try mutants one after another, in a copy of the repository of this process's own, and keep what comes out."""
    copy_repository(tree)
    for mutant, changed in mutants:
        found = try_mutant(tree, mutant, changed, tests, seconds)
        with KEPT.open('a') as file:
            file.write(json.dumps(dict(key=mutant.key, **found)) + '\n')
        print(f"{mutant.path}:{mutant.line} {found['by'] or 'SURVIVES'} ({found['tests']} tests, {found['seconds']} s)",
              flush=True)


def share_out(mutants: Sequence[Tuple[Mutant, str]], tests: Dict[str, Measured], seconds: float, jobs: int) -> None:
    """Try mutants in several processes, copies of this one."""
    children = {}
    for number in range(jobs):
        child = os.fork()
        if not child:
            status = 1
            try:
                try_mutants(WORK / f'job{number}' / 'copy', mutants[number::jobs], tests, seconds)
                status = 0
            finally:
                os._exit(status)
        children[child] = number
    try:
        while children:
            child, status = os.wait()
            number = children.pop(child)
            if status:
                print(f'job {number} has ended early', flush=True)
    finally:
        for child in children:
            os.kill(child, signal.SIGTERM)


def known_survivors() -> List[str]:
    """List what is known to change nothing that a test could see: lines such as ``- `before` -> `after`: reason``."""
    if not KNOWN.exists():
        return []
    found = [line[2:] for line in KNOWN.read_text().splitlines() if line.startswith('- ``')]
    return [' -> '.join(part.strip() for part in line.split('``')[1:4:2]) for line in found]


def report(results: Dict[str, Dict[str, Any]], mutants: Sequence[Mutant]) -> str:
    """Tell the score, and what has survived."""
    known, done = known_survivors(), [mutant for mutant in mutants if mutant.key in results]
    alive = [mutant for mutant in done if results[mutant.key]['by'] is None]
    equal = [mutant for mutant in alive if f'{mutant.before} -> {mutant.after}' in known]
    lines = [f'\n{mutant.path}:{mutant.line}\n  - {mutant.before}\n  + {mutant.after}'
             for mutant in alive if mutant not in equal]
    killed, count = len(done) - len(alive), max(len(done), 1)
    lines.append(f'\n{len(done)} of {len(mutants)} mutants tried: {killed} found ({100 * killed / count:.1f} %), '
                 f'{len(equal)} change nothing that can be seen ({KNOWN.relative_to(ROOT)}), '
                 f'{len(alive) - len(equal)} others survive')
    return '\n'.join(lines)


def main() -> None:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sample', type=int, help='number of mutants, at places chosen at random; default: all')
    parser.add_argument('--seed', type=int, default=0, help='of the choice, default 0')
    parser.add_argument('--only', default='', help='part of the path of the files to mutate')
    parser.add_argument('--seconds', type=float, default=60, help='of a core, for the tests of each mutant, default 60')
    parser.add_argument('--jobs', type=int, default=1, help='processes at a time, default 1')
    parser.add_argument('--again', action='store_true', help='try those that have survived once more')
    parser.add_argument('--fresh', action='store_true', help='measure the tests anew')
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    WORK.mkdir(parents=True, exist_ok=True)
    tree = WORK / 'copy'
    mutants = choose_mutants(ROOT, options.sample, options.seed, options.only)
    print(f'{len(mutants)} mutants', flush=True)
    copy_repository(tree)
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if options.fresh:
        (WORK / 'tests.json').unlink(missing_ok=True)
    tests = measure_tests(tree, WORK / 'tests.json')
    results = read_results()
    wanted = [(mutant, changed) for mutant, changed in mutants
              if mutant.key not in results or (options.again and not results[mutant.key]['by'])]
    share_out(wanted, tests, options.seconds, options.jobs)
    print(report(read_results(), [mutant for mutant, _ in mutants]))


if __name__ == '__main__':
    main()
