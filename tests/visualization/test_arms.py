"""The picture of a study: one row for each arm, whatever its number of runs."""
from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('matplotlib', reason='pictures are drawn with matplotlib')


def test_every_arm_has_its_row_and_the_means_are_where_they_should_be(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    from mmafan.visualization import draw_arms
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, 'savefig', lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    values = {'baseline': [1.0, 2.0, 6.0], 'a': [4.0], 'b': [5.0, 7.0]}
    path = tmp_path / 'new' / 'arms.png'
    draw_arms(values, 'mIoU', path)
    assert path.read_bytes()[:8] == b'\x89PNG\r\n\x1a\n'
    [axes] = figures[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ['baseline', 'a', 'b']
    dots = [line for line in axes.lines if line.get_marker() == 'o']
    for row, (line, runs) in enumerate(zip(dots, values.values())):
        np.testing.assert_array_equal(line.get_xdata(), runs)
        assert set(line.get_ydata()) == {row}
    bars = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == '-' and len(line.get_xdata()) == 2]
    assert bars == [3.0, 4.0, 6.0]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top
