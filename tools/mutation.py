"""Measure how many small faults in the core the tests find: the mutation score.

    python tools/mutation.py [--sample N] [--seed S] [--only TEXT] [--seconds T]

Makes mutants of the files in FOLDERS with the operators of cosmic-ray, one fault each, in a copy of the repository, and
runs the tests that come to the changed line: those of the file's own test module first, then the quick ones, until one
fails. Prints the score and every mutant that no test has found. What is done is kept in work_dirs/mutation: a run that
was stopped goes on where it was, and mutants that were found stay so. Needs requirements/mutation.txt.
"""
from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / 'work_dirs' / 'mutation'
# Not what is inside: backbones are networks like others.
FOLDERS = ('mmafan/functional', 'mmafan/layers', 'mmafan/replay', 'mmafan/models')
TESTS = ('tests/functional', 'tests/layers', 'tests/replay', 'tests/models', 'tests/parity', 'tests/hooks',
         'tests/properties')
KNOWN = ROOT / 'tests' / 'mutation_survivors.md'
PRELOADED = ('pytest', 'torch', 'torchvision', 'mmengine.runner', 'mmcv.ops', 'mmpretrain.models', 'mmdet.models',
             'mmseg.models', 'hypothesis', 'coverage')
COMMAND = ('-q', '-p', 'no:cacheprovider', '-m', 'not slow and not gpu')


class Mutant(NamedTuple):
    """A small fault: where it is, and the lines before and after."""
    path: str
    line: int
    last_line: int
    operator: str
    occurrence: int
    before: str = ''
    after: str = ''

    @property
    def key(self) -> str:
        """What stays the same while other lines of the file change."""
        return f'{self.path}: {self.before} -> {self.after}'


class Measured(NamedTuple):
    """What a test takes, in seconds, and the lines it comes to, as they are written: their numbers change."""
    seconds: float
    lines: Dict[str, List[str]]


# ---------------------------------------------------------------------- mutants
def find_files(root: Path) -> List[str]:
    """List the files to mutate."""
    return [path.relative_to(root).as_posix() for folder in FOLDERS for path in sorted((root / folder).glob('*.py'))
            if path.name != '__init__.py']


def rank(seed: int, *words: Any) -> str:
    """Give a place its turn: random, but the same whatever else is in the repository."""
    return hashlib.sha256(':'.join(map(str, (seed, *words))).encode()).hexdigest()


def list_places(path: str, source: str, seed: int) -> List[Tuple[str, List[Mutant]]]:
    """List the places of a file that can be changed, each with its turn, and what can be done there, in turn."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names
    nodes, lines = list(ast_nodes(get_ast(source))), source.splitlines()
    places: Dict[Tuple[Any, Any], List[Mutant]] = {}
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments():
            continue
        found = [place for node in nodes for place in operator().mutation_positions(node)]
        for number, (begin, end) in enumerate(found):
            places.setdefault((begin, end), []).append(Mutant(path, begin[0], end[0], name, number))
    made, seen = [], {}  # type: ignore[var-annotated]
    for begin, end in sorted(places):
        text = lines[begin[0] - 1]
        seen[text] = seen.get(text, 0) + 1  # the same line may stand there twice
        words = (path, text, seen[text])
        made.append((rank(seed, *words), sorted(places[begin, end], key=lambda m: rank(seed, *words, m.operator))))
    return made


def without_annotations(source: str) -> str:
    """Dump what is executed of a module: its annotations are never evaluated."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for field in ('annotation', 'returns'):
            if getattr(node, field, None) is not None:
                setattr(node, field, None if field == 'returns' or isinstance(node, ast.arg) else ast.Constant(None))
    return ast.dump(tree)


def mutate(source: str, mutant: Mutant) -> Optional[str]:
    """Return the changed source; None where it is the same program, or none at all."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator
    try:
        changed = mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)
        return None if changed is None or without_annotations(changed) == without_annotations(source) else changed
    except SyntaxError:
        return None


def describe(mutant: Mutant, source: str, changed: str) -> Mutant:
    """Add the lines before and after."""
    lines = [line for line in difflib.unified_diff(source.splitlines(), changed.splitlines(), n=0, lineterm='')
             if not line.startswith(('---', '+++', '@@'))]
    before, after = (' '.join(line[1:].strip() for line in lines if line[0] == sign) for sign in '-+')
    return mutant._replace(before=before, after=after)


def choose_mutants(root: Path, sample: Optional[int], seed: int, only: str = '') -> List[Tuple[Mutant, str]]:
    """Choose places at random and one mutant at each; all mutants of all places without a number.

    Returns:
        Each mutant with the changed source.
    """
    sources = {path: (root / path).read_text() for path in find_files(root) if only in path}
    places = sorted((place for path, source in sources.items() for place in list_places(path, source, seed)),
                    key=lambda place: place[0])
    chosen: List[Tuple[Mutant, str]] = []
    for _, mutants in places:
        for mutant in mutants:
            changed = mutate(sources[mutant.path], mutant)
            if changed is not None:
                chosen.append((describe(mutant, sources[mutant.path], changed), changed))
                if sample is not None:
                    break
        if sample is not None and len(chosen) >= sample:
            break
    return chosen


# ---------------------------------------------------------------------- tests
def function_around(source: str, line: int) -> range:
    """Return the numbers of the lines of the innermost function around a line; none where there is no function."""
    spans = [range(node.lineno, (node.end_lineno or node.lineno) + 1) for node in ast.walk(ast.parse(source))
             if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return min((span for span in spans if line in span), key=len, default=range(0))


def choose_tests(mutant: Mutant, source: str, tests: Dict[str, Measured], seconds: float) -> List[str]:
    """Return the tests that come to a mutant within a time: those of its own module, then each file's quickest one."""
    lines = source.splitlines()
    covering: List[str] = []
    for span in (range(mutant.line, mutant.last_line + 1), function_around(source, mutant.line)):
        wanted = {lines[number - 1].strip() for number in span}
        covering = covering or [name for name, test in tests.items() if wanted & set(test.lines.get(mutant.path, ()))]
    covering = covering or [name for name, test in tests.items() if test.lines.get(mutant.path)]
    folder, name = os.path.split(mutant.path)
    own = f"{folder.replace('mmafan', 'tests', 1)}/test_{name}"
    turns: Dict[str, int] = {}
    order = []
    for test in sorted(covering, key=lambda t: tests[t].seconds):
        file = test.partition('::')[0]
        turns[file] = turns.get(file, 0) + 1
        order.append((0 if file == own else turns[file], tests[test].seconds, test))
    chosen, total = [], 0.0
    for _, took, test in sorted(order):
        total += took
        if chosen and total > seconds:
            break
        chosen.append(test)
    return chosen


class Selection:
    """Plugin of pytest: runs some tests, in an order; notes the first that fails, and what each takes.

    Args:
        wanted: Names of tests in order; None: all, as they come.
        coverage: Measures lines; None: nothing does.
    """

    def __init__(self, wanted: Optional[Sequence[str]], coverage: Any = None) -> None:
        self.wanted, self.coverage = wanted, coverage
        self.seconds: Dict[str, float] = {}
        self.failed: List[str] = []

    def pytest_collection_modifyitems(self, items: List[Any]) -> None:
        if self.wanted is not None:
            found = {item.nodeid: item for item in items}
            items[:] = [found[name] for name in self.wanted if name in found]

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_runtest_setup(self, item: Any) -> None:
        if self.coverage is not None:
            self.coverage.switch_context(item.nodeid)


def _child(tree: Path, arguments: Sequence[str], wanted: Optional[Sequence[str]], answer: Path, measures: bool) -> int:
    """Run tests in this process, which is a copy of one that has imported everything but mmafan."""
    os.setsid()
    os.chdir(tree)
    sys.path[:0] = [str(tree)]
    os.environ.update(PYTHONPATH=str(tree), OMP_NUM_THREADS='1', MPLBACKEND='Agg')
    log = os.open(answer.with_suffix('.log'), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    import pytest
    cover: Any = None
    if measures:
        import coverage
        cover = coverage.Coverage(data_file=None, include=[f'{tree}/{folder}/*' for folder in FOLDERS])
        cover.start()
    plugin = Selection(wanted, cover)
    status = pytest.main([*COMMAND, *arguments], plugins=[plugin])
    lines: Dict[str, Dict[str, List[str]]] = {}
    if measures:
        cover.stop()
        data = cover.get_data()
        for file in data.measured_files():
            texts = Path(file).read_text().splitlines()
            for line, names in data.contexts_by_lineno(file).items():
                for name in names:
                    own = lines.setdefault(name, {}).setdefault(os.path.relpath(file, tree), [])
                    own.append(texts[line - 1].strip())
    answer.write_text(json.dumps(dict(failed=plugin.failed, seconds=plugin.seconds, lines=lines)))
    return int(status)


def run_tests(tree: Path, arguments: Sequence[str], wanted: Optional[Sequence[str]], timeout: float,
              measures: bool = False) -> Tuple[Optional[int], Dict[str, Any]]:
    """Run tests in a child.

    Returns:
        Its status, None where it took too long, and what it has told.
    """
    answer = tree.parent / 'answer.json'
    answer.write_text('{}')
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = 70
        try:
            status = _child(tree, arguments, wanted, answer, measures)
        finally:
            os._exit(status)
    end, found, status = time.monotonic() + timeout, 0, 0
    try:
        while not found and time.monotonic() < end:
            found, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0 if found else 0.02)
    finally:  # what the tests have started ends with them, and they with this process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if not found:
            os.waitpid(child, 0)
    if not found:
        return None, {}
    return os.waitstatus_to_exitcode(status), json.loads(answer.read_text() or '{}')


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


def measure_tests(tree: Path) -> Dict[str, Measured]:
    """Run the tests once, to see how long each takes and which lines it comes to; kept until their file changes.

    Raises:
        SystemExit: If one fails.
    """
    kept = WORK / 'tests.json'
    known = json.loads(kept.read_text()) if kept.exists() else {}
    tests: Dict[str, Measured] = {}
    for folder in TESTS:
        for path in sorted((tree / folder).rglob('test_*.py')):
            name = path.relative_to(tree).as_posix()
            key = hashlib.sha256(path.read_bytes()).hexdigest()
            if known.get(name, {}).get('key') != key:
                status, told = run_tests(tree, [name], None, 1800, measures=True)
                if status not in (0, 5):
                    sys.exit(f'{name} fails without a mutant, or takes too long:\n'
                             f'{(tree.parent / "answer.log").read_text()[-3000:]}')
                known[name] = dict(key=key, seconds=told['seconds'], lines=told['lines'])
                kept.write_text(json.dumps(known))
                print(f"{name}: {len(told['seconds'])} tests, {sum(told['seconds'].values()):.1f} s", flush=True)
            tests.update({test: Measured(seconds, known[name]['lines'].get(test, {}))
                          for test, seconds in known[name]['seconds'].items()})
    return tests


# ---------------------------------------------------------------------- the run
def try_mutant(tree: Path, mutant: Mutant, changed: str, tests: Dict[str, Measured], seconds: float) -> Dict[str, Any]:
    """Run the tests of a mutant.

    Returns:
        ``by``, the test that has found it; None where none has.
    """
    path = tree / mutant.path
    source = path.read_text()
    chosen = choose_tests(mutant, source, tests, seconds)
    begin, status, told = time.monotonic(), 0, {}  # type: Tuple[float, Optional[int], Dict[str, Any]]
    try:
        path.write_text(changed)
        for compiled in path.parent.glob(f'__pycache__/{path.stem}.*'):
            compiled.unlink()
        for part in (chosen[:10], chosen[10:]):  # most are found by a few tests, and all take long to collect
            if part and status == 0:
                files = list(dict.fromkeys(test.partition('::')[0] for test in part))
                limit = 60 + 3 * sum(tests[test].seconds for test in part)
                status, told = run_tests(tree, ['-x', *files], part, limit)
    finally:
        path.write_text(source)
        for compiled in path.parent.glob(f'__pycache__/{path.stem}.*'):
            compiled.unlink()
    by = None if status == 0 else 'no end' if status is None else (told.get('failed') or ['no import'])[0]
    return dict(by=by, tests=len(chosen), seconds=round(time.monotonic() - begin, 1))


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
    parser.add_argument('--seconds', type=float, default=60, help='of tests for each mutant, default 60')
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
    tests = measure_tests(tree)
    kept = WORK / 'results.jsonl'
    lines = kept.read_text().splitlines() if kept.exists() else []
    results: Dict[str, Dict[str, Any]] = {found.pop('key'): found for found in map(json.loads, lines)}
    for number, (mutant, changed) in enumerate(mutants, 1):
        if mutant.key in results and (results[mutant.key]['by'] or not options.again):
            continue
        found = results[mutant.key] = try_mutant(tree, mutant, changed, tests, options.seconds)
        with kept.open('a') as file:
            file.write(json.dumps(dict(key=mutant.key, **found)) + '\n')
        print(f"{number}/{len(mutants)} {mutant.path}:{mutant.line} {found['by'] or 'SURVIVES'} "
              f"({found['tests']} tests, {found['seconds']} s)", flush=True)
    print(report(results, [mutant for mutant, _ in mutants]))


if __name__ == '__main__':
    main()
