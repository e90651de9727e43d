"""Pictures of layers show the numbers they are given."""
from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('matplotlib', reason='pictures are drawn by matplotlib')

from mmafan.analysis.statistics_shift import Shift  # noqa: E402
from mmafan.visualization import draw_margins, draw_statistics_shift  # noqa: E402

LAYERS = ['backbone.layer2', 'neck', 'head']


def test_shifts(tmp_path):
    arms = {arm: {name: Shift(k + n, k * 10 + n, 1.0) for n, name in enumerate(LAYERS)}
            for k, arm in enumerate(('additive', 'noise'))}
    figure = draw_statistics_shift(arms, tmp_path / 'a.png', 'title')
    assert [list(line.get_ydata()) for line in figure.axes[0].lines] == [[0, 1, 2], [1, 2, 3]]
    assert [list(line.get_ydata()) for line in figure.axes[1].lines] == [[0, 1, 2], [10, 11, 12]]
    assert [t.get_text() for t in figure.axes[1].get_xticklabels()] == LAYERS
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ['additive', 'noise']
    assert (tmp_path / 'a.png').read_bytes()[:4] == b'\x89PNG'


def test_margins(tmp_path):
    margins = {label: {name: [k + n - 0.5, k + n, k + n + 1.0] for n, name in enumerate(LAYERS)}
               for k, label in enumerate(('baseline', 'A-FAN'))}
    figure = draw_margins(margins, tmp_path / 'a.png', 'title')
    first, second = figure.axes[0].containers
    np.testing.assert_allclose(first.lines[0].get_ydata(), [0, 1, 2])
    np.testing.assert_allclose(second.lines[0].get_ydata(), [1, 2, 3])
    assert (first.lines[0].get_xdata() < second.lines[0].get_xdata()).all()
    bars = np.array(first.lines[2][0].get_segments())
    np.testing.assert_allclose(bars[:, :, 1], [[-0.5, 1], [0.5, 2], [1.5, 3]])
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == LAYERS
    assert (tmp_path / 'a.png').read_bytes()[:4] == b'\x89PNG'


def boxes_of(figure):
    """Legend, title and panels as drawn, in pixels."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    return [figure.legends[0].get_window_extent(renderer), figure._suptitle.get_window_extent(renderer),
            *(axis.get_tightbbox(renderer) for axis in figure.axes)]


@pytest.mark.parametrize('count', [1, 2, 5])
def test_nothing_overlaps(count):
    long = [f'roi_head.bbox_head.shared_fcs.{k}' for k in range(9)]
    figures = [draw_margins({f'work_dirs/run_{k}/epoch_100': {n: [0, 1, 2] for n in long} for k in range(count)},
                            title='title'),
               draw_statistics_shift({f'arm {k}': {n: Shift(1, 1, 1) for n in long} for k in range(count)},
                                     title='title')]
    for figure in figures:
        boxes = boxes_of(figure)
        whole = figure.bbox
        for k, box in enumerate(boxes):
            assert box.x0 >= whole.x0 - 1 and box.x1 <= whole.x1 + 1 and box.y0 >= whole.y0 - 1
            assert box.y1 <= whole.y1 + 1
            assert not any(box.overlaps(other) for other in boxes[:k])
