"""Which tests come to a mutant, and running them in a copy of a process that has imported everything but mmafan."""
from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from mutants import FOLDERS, Mutant

TESTS = ('tests/functional', 'tests/layers', 'tests/replay', 'tests/models', 'tests/parity', 'tests/hooks')
COMMAND = ('-q', '-p', 'no:cacheprovider', '-m', 'not slow and not gpu')


class Measured(NamedTuple):
    """What a test takes, in seconds of a core, and the lines it comes to, as they are written: their numbers change."""
    seconds: float
    lines: Dict[str, List[str]]


def lines_of(source: str, mutant: Mutant) -> List[Set[str]]:
    """Return the lines by which the tests of a mutant are known, the closest ones first.

    What runs at import, such as the head of a function with its defaults, belongs to no test: in place of a head it is
    the function's body, and in place of a line of a class or module what its functions do.
    """
    lines, bodies = source.splitlines(), []
    heads: Set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first, last = min(one.lineno for one in (node, *node.decorator_list)), (node.end_lineno or 0) + 1
            heads |= set(range(first, node.body[0].lineno))
            bodies.append((range(first, last), range(node.body[0].lineno, last)))
    around = min((pair for pair in bodies if mutant.line in pair[0]), key=lambda pair: len(pair[0]), default=None)
    own = range(mutant.line, mutant.last_line + 1) if around and mutant.line in around[1] else ()
    inside = (number for _, body in bodies for number in body)
    return [{lines[number - 1].strip() for number in numbers if number not in heads}
            for numbers in (own, around[1] if around else (), inside)]


def choose_tests(mutant: Mutant, source: str, tests: Dict[str, Measured], seconds: float) -> List[str]:
    """Return the tests that come to a mutant within a time: those of its own module, then each file's quickest one."""
    covering: List[str] = []
    for wanted in lines_of(source, mutant):
        covering = covering or [name for name, test in tests.items() if wanted & set(test.lines.get(mutant.path, ()))]
        covering = covering or [name for name, test in tests.items()  # measured before the line has moved
                                if wanted & {line for lines in test.lines.values() for line in lines}]
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
        self._begin = 0.0

    def pytest_collection_modifyitems(self, items: List[Any]) -> None:
        if self.wanted is not None:
            found = {item.nodeid: item for item in items}
            items[:] = [found[name] for name in self.wanted if name in found]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._begin = time.process_time()  # the machine may be busy with other things
        if self.coverage is not None:
            self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.seconds[nodeid] = time.process_time() - self._begin


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


def measure_tests(tree: Path, kept: Path) -> Dict[str, Measured]:
    """Run the tests once, to see how long each takes and which lines it comes to; kept until their file changes.

    Args:
        tree: A copy of the repository.
        kept: File of what has been measured.

    Raises:
        SystemExit: If one fails.
    """
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
