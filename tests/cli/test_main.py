"""The command ``mmafan``: its subcommands, the tools behind it, and what the core knows of it."""
from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mmafan
from mmafan.cli.main import COMMANDS, TOOLS, main, make_parser


def test_every_subcommand_parses():
    parser = make_parser()
    for name in COMMANDS:
        with pytest.raises(SystemExit) as error:
            parser.parse_args([name, '--help'])
        assert error.value.code == 0


def test_help_names_all_of_them(capsys):
    with pytest.raises(SystemExit):
        main(['--help'])
    out = capsys.readouterr().out
    for name in (*COMMANDS, *TOOLS):
        assert f'    {name} ' in out


def test_tool_is_called_with_its_arguments(monkeypatch):
    seen = []
    for name, (module, _) in TOOLS.items():
        tool = importlib.import_module(f'mmafan.lab.{module}')
        monkeypatch.setattr(tool, 'main', lambda argv: seen.append((sys.argv[0], argv)))
        monkeypatch.setattr(sys, 'argv', ['mmafan', name, 'a', '--help'])
        main()
    assert seen == [(f'mmafan {name}', ['a', '--help']) for name in TOOLS]


def test_a_bug_in_a_tool_is_no_sentence(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['mmafan'])
    monkeypatch.setattr('mmafan.lab.train.main', lambda argv: int(argv[0]))
    with pytest.raises(ValueError):
        main(['train', 'x.py'])


def test_module_is_the_command_from_any_folder(tmp_path):
    folder = str(Path(mmafan.__path__[0]).parent)
    done = subprocess.run([sys.executable, '-m', 'mmafan', '--version'], cwd=str(tmp_path), universal_newlines=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=folder))
    assert done.stdout.strip() == f'mmafan {mmafan.__version__}', done.stderr[-500:]


def test_core_never_imports_the_command():
    root = Path(mmafan.__path__[0])
    for path in root.rglob('*.py'):
        parts = path.relative_to(root).parts
        if {'cli', 'conformance'} & set(parts) or path.name == '__main__.py' or '.mim' in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or '', *(a.name for a in node.names)] if isinstance(node, ast.ImportFrom) else []
            assert not any('cli' in name.split('.') for name in names), path
