"""The files of ``tools``: each is a command line of the laboratory, and no more than that."""
from __future__ import annotations

import runpy
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
FILES = sorted(TOOLS.rglob('*.py'))


def test_the_library_is_in_the_package():
    assert len(FILES) > 15
    for path in FILES:
        text = path.read_text()
        assert not path.name.startswith('_') and 'sys.path' not in text and len(text.splitlines()) <= 30, path


@pytest.mark.parametrize('path', [path for path in FILES if path.name != 'get_flops.py'], ids=lambda path: path.stem)
def test_it_answers(path, monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', [str(path), '--help'])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name='__main__')
    assert end.value.code == 0
    name = 'gpu_check.sh' if path.stem == 'gpu_check' else path.name
    assert capsys.readouterr().out.startswith(f'usage: {name} ')
