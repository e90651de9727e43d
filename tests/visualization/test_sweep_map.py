"""The maps and curves of the sweep and of the robustness show every number that was measured."""
from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('matplotlib', reason='pictures are drawn by matplotlib')

from mmafan.visualization import draw_robustness, draw_sweep  # noqa: E402


def cell(tap, step_size, difference, interval=1.0, strength=None):
    return dict(tap=tap, step_size=step_size, strength=strength, difference=difference, interval=interval)


def panels_of(figure):
    return [axis for axis in figure.axes if axis.get_label() != '<colorbar>']


def test_map_has_every_cell_at_its_place(tmp_path):
    cells = [cell('a', 0.0, -1.0), cell('a', 0.1, 2.5), cell('long.b', 0.0, 0.5, None), cell('long.b', 0.1, 0.0)]
    path = tmp_path / 'map.png'
    [panel] = panels_of(draw_sweep(cells, 'mIoU', 'std', path))
    values = np.asarray(panel.images[0].get_array())
    np.testing.assert_array_equal(values, [[-1.0, 2.5], [0.5, 0.0]])
    assert panel.images[0].get_clim() == (-2.5, 2.5)
    assert [t.get_text() for t in panel.get_yticklabels()] == ['a', 'long.b']
    assert [t.get_text() for t in panel.get_xticklabels()] == ['0', '0.1']
    texts = {t.get_position(): t for t in panel.texts}
    assert texts[(1, 0)].get_text() == '+2.50\n± 1.00' and texts[(1, 0)].get_fontweight() == 'bold'
    assert texts[(0, 1)].get_text() == '+0.50' and texts[(0, 0)].get_fontweight() == 'normal'
    assert path.read_bytes()[:8] == b'\x89PNG\r\n\x1a\n'


def test_map_has_a_panel_for_every_strength():
    cells = [cell('a', 0.1, difference, strength=strength) for strength, difference in ((0.5, 1.0), (1.0, -2.0))]
    panels = panels_of(draw_sweep(cells, 'mIoU'))
    assert [panel.get_title() for panel in panels] == ['strength 0.5', 'strength 1']
    assert [float(panel.images[0].get_array()[0, 0]) for panel in panels] == [1.0, -2.0]


def test_map_of_nothing_is_refused():
    with pytest.raises(ValueError, match='cells must hold at least one cell'):
        draw_sweep([], 'mIoU')


@pytest.fixture
def measured():
    pgd = dict(steps=5, checkpoints=dict(one=dict(clean=90.0, accuracy={0: 90.0, 2: 50.0}),
                                         two=dict(clean=80.0, accuracy={0: 80.0, 2: 60.0})))
    runs = {label: dict(clean=clean, severity={1: 70.0, 5: 30.0}, corruption=dict(fog=clean - 40, snow=clean - 30))
            for label, clean in (('one', 90.0), ('two', 80.0))}
    return dict(pgd=pgd, corruptions=dict(metric='mIoU', checkpoints=runs))


def test_curves_and_bars_are_the_numbers(measured, tmp_path):
    path = tmp_path / 'robustness.png'
    attack, severity, names = panels_of(draw_robustness(measured, path))
    np.testing.assert_array_equal([line.get_xydata() for line in attack.lines],
                                  [[(0, 90), (2, 50)], [(0, 80), (2, 60)]])
    np.testing.assert_array_equal(severity.lines[1].get_xydata(), [(0, 80), (1, 70), (5, 30)])
    assert [bar.get_height() for bar in names.patches] == [50, 60, 40, 50]
    assert [t.get_text() for t in names.get_xticklabels()] == ['fog', 'snow']
    assert severity.get_ylabel() == 'mIoU' and path.stat().st_size > 5000


def test_only_what_was_measured_is_drawn(measured):
    assert len(draw_robustness(dict(pgd=measured['pgd'])).axes) == 1
    assert len(draw_robustness(dict(corruptions=measured['corruptions'])).axes) == 2
    empty = draw_robustness(dict(corruptions=dict(skipped=dict(fog='too small'))))
    assert not empty.axes and empty.texts[0].get_text() == 'no corruption could be used'
