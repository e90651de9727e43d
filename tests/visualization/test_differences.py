"""The picture of differences by setting, and the map of the documents that is drawn with it."""
from __future__ import annotations

import importlib
import re

import numpy as np
import pytest

pytest.importorskip('matplotlib', reason='pictures are drawn with matplotlib')


def test_every_setting_has_its_row_and_every_method_its_marks(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    from mmafan.visualization import draw_differences
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, 'savefig', lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    path = tmp_path / 'new' / 'map.png'
    draw_differences({'few': {'a': [4.0, 5.0], 'b': [1.0]}, 'many': {'b': [-2.0]}}, 'points', path)
    assert path.read_bytes()[:8] == b'\x89PNG\r\n\x1a\n'
    [axes] = figures[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ['few', 'many']
    marks = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines
             if line.get_label() in 'ab'}
    assert marks == {'a': ([4.0, 5.0], [0, 0]), 'b': ([1.0, -2.0], [0, 1])}
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top


def test_the_map_is_the_table_of_the_documents(repo, monkeypatch):
    tool = importlib.import_module('mmafan.lab.analyses.regime_map')
    found = tool.differences(str(repo / 'docs' / 'evidence'))
    text = (repo / 'docs' / 'when_to_use.md').read_text(encoding='utf-8')
    table = text.partition('## The map')[2].partition('## ')[0]
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines()
             if re.match(r'\| \d', line)]
    assert len(cells) == 9
    small, first = tool.METHODS.values()
    for column, method in ((5, small), (6, first)):
        gains = sorted(gain for methods in found.values() for gain in methods.get(method, ()))
        np.testing.assert_allclose(sorted(float(row[column]) for row in cells if row[column]), gains, atol=0.051)
