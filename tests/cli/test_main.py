"""The command ``mmafan``: its subcommands, the tools behind it, and what the core knows of it."""
from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mmafan
from mmafan.cli import tools
from mmafan.cli.main import COMMANDS, main, make_parser
from mmafan.cli.tools import TOOLS, tool_path


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


def test_every_tool_is_there(repo):
    for name, (path, _) in TOOLS.items():
        assert (repo / 'tools' / path).samefile(tool_path(name))


def test_tool_runs_with_its_arguments(tmp_path, monkeypatch, capsys):
    (tmp_path / 'beside.py').write_text('VALUE = 7\n')
    (tmp_path / 'say.py').write_text('import sys\nimport beside\nif __name__ == "__main__":\n'
                                     '    print(sys.argv[1:], beside.VALUE)\n')
    monkeypatch.setattr(tools, 'FOLDER', str(tmp_path))
    monkeypatch.setitem(tools.TOOLS, 'say', ('say.py', ''))
    monkeypatch.setattr(sys, 'argv', sys.argv)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    main(['say', 'a', '--help'])
    assert capsys.readouterr().out.strip() == "['a', '--help'] 7"


def test_missing_tools_are_a_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tools, 'FOLDER', str(tmp_path))
    with pytest.raises(SystemExit) as error:
        main(['train', 'x.py'])
    assert error.value.code == 2 and 'this installation of mmafan has no tools' in capsys.readouterr().err


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
