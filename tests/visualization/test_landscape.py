"""Contours of losses."""
from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('matplotlib', reason='pictures are drawn by matplotlib')

from mmafan.visualization import draw_landscape  # noqa: E402

COORDINATES = np.linspace(-1, 1, 5)


def test_panels_share_one_scale(tmp_path):
    surface = 1 + COORDINATES[:, None]**2 + COORDINATES[None, :]**2
    figure = draw_landscape(dict(a=surface, b=surface * 3), COORDINATES, tmp_path / 'a.png')
    panels, bar = figure.axes[:2], figure.axes[2]
    assert [p.get_title() for p in panels] == ['a\nloss at the centre 1', 'b\nloss at the centre 3']
    assert bar.get_ylim() == pytest.approx((1, 9))
    assert (tmp_path / 'a.png').read_bytes()[:4] == b'\x89PNG'


def test_direction_1_goes_to_the_right():
    surface = np.repeat(np.geomspace(1, 16, 5)[:, None], 5, axis=1)  # grows with a alone
    figure = draw_landscape(dict(a=surface), COORDINATES, num_levels=5)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())

    def colour(a, b):
        x, y = figure.axes[0].transData.transform((a, b))
        return tuple(pixels[pixels.shape[0] - 1 - int(y), int(x)])

    assert colour(-0.8, 0.8) == colour(-0.8, -0.8) != colour(0.8, 0.8) == colour(0.8, -0.8)


def test_losses_that_are_not_finite_are_left_out():
    surface = np.full((5, 5), 2.0)
    surface[0], surface[1] = np.inf, np.nan
    figure = draw_landscape(dict(a=surface), COORDINATES)
    assert figure.axes[0].get_title().endswith('2')
    with pytest.raises(ValueError, match='at least one finite loss'):
        draw_landscape(dict(a=np.full((5, 5), np.nan)), COORDINATES)
