"""The mutation score: which mutants there are, which tests are tried on them, and what is told of them."""
from __future__ import annotations

import importlib
import sys

import pytest

SOURCE = '''from __future__ import annotations


def larger(a: int | float, b: int) -> int | None:
    """Return the larger one."""
    if a > b:
        return a
    return b + 0
'''


@pytest.fixture
def tool(repo, monkeypatch):
    """Import a module of the tools."""
    monkeypatch.syspath_prepend(str(repo / 'tests' / 'mutation'))
    yield importlib.import_module
    for name in ('score', 'mutants', 'mutant_tests'):
        sys.modules.pop(name, None)


@pytest.fixture
def tree(tmp_path):
    """A repository of one file."""
    (tmp_path / 'mmafan' / 'functional').mkdir(parents=True)
    (tmp_path / 'mmafan' / 'functional' / 'larger.py').write_text(SOURCE)
    return tmp_path


def test_mutants_change_what_is_executed_alone(tool, tree):
    pytest.importorskip('cosmic_ray', reason='mutants are made with the package cosmic-ray')
    mutants = tool('mutants')
    found = mutants.choose_mutants(tree, None, 0)
    assert {mutant.line for mutant, _ in found} == {6, 8}  # no annotation
    for mutant, changed in found:
        compile(changed, mutant.path, 'exec')
        assert changed != SOURCE and mutant.before in SOURCE and mutant.after in changed
    assert 'if a < b:' in {mutant.after for mutant, _ in found}


def test_a_sample_is_the_same_while_other_lines_change(tool, tree):
    pytest.importorskip('cosmic_ray', reason='mutants are made with the package cosmic-ray')
    mutants = tool('mutants')
    before = [mutant.key for mutant, _ in mutants.choose_mutants(tree, 2, 0)]
    path = tree / 'mmafan' / 'functional' / 'larger.py'
    path.write_text(SOURCE.replace('    if', '    # a comment\n    if'))
    assert [mutant.key for mutant, _ in mutants.choose_mutants(tree, 2, 0)] == before and len(set(before)) == 2
    others = {mutant.key for seed in range(9) for mutant, _ in mutants.choose_mutants(tree, 1, seed)}
    assert len(others) > 2


def test_tests_that_come_to_the_line_are_tried_within_the_time_those_of_the_file_first(tool):
    tests, mutants = tool('mutant_tests'), tool('mutants')
    path = 'mmafan/functional/larger.py'

    def measured(seconds, *lines):
        return tests.Measured(seconds, {path: list(lines)})

    known = {'tests/models/test_a.py::quick': measured(0.1, 'if a > b:'),
             'tests/models/test_a.py::next': measured(0.2, 'if a > b:'),
             'tests/replay/test_b.py::slower': measured(5, 'if a > b:'),
             'tests/functional/test_larger.py::own': measured(3, 'if a > b:'),
             'tests/models/test_a.py::elsewhere': measured(0.1, 'return b + 0')}
    mutant = mutants.Mutant(path, 6, 6, 'operator', 0)
    order = ['tests/functional/test_larger.py::own', 'tests/models/test_a.py::quick', 'tests/replay/test_b.py::slower',
             'tests/models/test_a.py::next']
    assert tests.choose_tests(mutant, SOURCE, known, 60) == order
    assert tests.choose_tests(mutant, SOURCE, known, 4) == order[:2]
    known['tests/models/test_c.py::imports'] = measured(0.1, 'def larger(a: int | float, b: int) -> int | None:')
    head = tests.choose_tests(mutant._replace(line=4, last_line=4), SOURCE, known, 60)
    assert head == [*order[:2], 'tests/replay/test_b.py::slower', 'tests/models/test_a.py::elsewhere',
                    'tests/models/test_a.py::next']  # those of the body: what runs at import belongs to no test


def test_the_score_and_those_that_survive_are_told(tool, monkeypatch):
    mutation, mutants = tool('score'), tool('mutants')
    monkeypatch.setattr(mutation, 'known_survivors', lambda: ['x = 1 -> x = 2'])
    made = [mutants.Mutant('a.py', n, n, 'operator', 0, f'x = {n}', f'x = {n + 1}') for n in range(4)]
    results = {made[0].key: dict(by='a test'), made[1].key: dict(by=None), made[2].key: dict(by=None)}
    told = mutation.report(results, made)
    assert 'a.py:2\n  - x = 2\n  + x = 3' in told and 'a.py:1\n' not in told
    assert '3 of 4 mutants tried: 1 found (33.3 %), 1 change nothing' in told and '1 others survive' in told


def test_the_list_of_survivors_is_read(tool, monkeypatch, tmp_path):
    mutation = tool('score')
    monkeypatch.setattr(mutation, 'KNOWN', tmp_path / 'known.md')
    assert mutation.known_survivors() == []
    (tmp_path / 'known.md').write_text('# Title\n\n- ``a | b`` -> ``a & b``: both are bool.\n- no mutant\n')
    assert mutation.known_survivors() == ['a | b -> a & b']
