"""Who imports whom in the package: no circle, the codebases in few places, analyses never from the core."""
from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / 'mmafan'
FILES = sorted(path for path in PACKAGE.rglob('*.py') if '.mim' not in path.parts)
CODEBASES = {'mmpretrain', 'mmdet', 'mmseg'}
LABORATORY = ('mmafan.analysis', 'mmafan.visualization', 'mmafan.conformance', 'mmafan.lab')
ABOVE = (*LABORATORY, 'mmafan.cli', 'mmafan.__main__')  # what the core never imports


def module_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_of(path): path for path in FILES}


def imported_by(name):
    """Modules that a file imports, anywhere in it but under ``TYPE_CHECKING``."""
    path = MODULES[name]
    package = name if path.name == '__init__.py' else name.rpartition('.')[0]
    tree = ast.parse(path.read_text())
    skipped = {id(node) for block in ast.walk(tree) if isinstance(block, ast.If)
               and isinstance(block.test, ast.Name) and block.test.id == 'TYPE_CHECKING'
               for statement in block.body for node in ast.walk(statement)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split('.')[:len(package.split('.')) - node.level + 1] if node.level else []
            base = '.'.join([*parts, *([node.module] if node.module else [])])
            for alias in node.names:
                found.add(f'{base}.{alias.name}' if f'{base}.{alias.name}' in MODULES else base)
    return found


def test_no_circle():
    graph = {name: {other for other in imported_by(name) if other in MODULES} for name in MODULES}
    done, path = set(), []

    def visit(name):
        assert name not in path, ' -> '.join([*path[path.index(name):], name])
        if name not in done:
            path.append(name)
            for other in sorted(graph[name]):
                visit(other)
            path.pop()
            done.add(name)

    for name in graph:
        visit(name)


@pytest.mark.parametrize('name', sorted(MODULES))
def test_the_core_does_not_know_the_laboratory(name):
    if not name.startswith(ABOVE):
        assert not [other for other in imported_by(name) if other.startswith(ABOVE)]


def test_the_codebases_are_known_in_few_places():
    """In the files on them, and where stock code is worked around, made data drawn or a backbone defined."""
    allowed = ('mmafan.models.detection', 'mmafan.models.segmentation', 'mmafan.models.backbones', 'mmafan.compat',
               'mmafan.datasets', *LABORATORY)
    for name in MODULES:
        roots = {other.partition('.')[0] for other in imported_by(name)}
        assert name.startswith(allowed) or not roots & CODEBASES, name


def test_the_replay_knows_no_afan():
    for name in MODULES:
        if name.startswith('mmafan.replay'):
            assert all(other.startswith('mmafan.replay') for other in imported_by(name) if other.startswith('mmafan'))


def test_types_are_ignored_in_few_places():
    count = sum(path.read_text().count('type: ignore') for path in FILES)
    assert count <= 15


def test_files_are_small():
    assert not [str(path) for path in FILES if len(path.read_text().splitlines()) > 250]


def test_a_wheel_has_every_folder():
    """``packages = find:`` takes those alone that have an ``__init__.py``."""
    assert not [str(folder) for folder in {path.parent for path in FILES} if not (folder / '__init__.py').is_file()]
