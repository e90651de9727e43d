"""Images side by side."""
from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('matplotlib', reason='draws')

from mmafan.visualization import draw_image_grid  # noqa: E402


def test_every_image_in_its_place(tmp_path):
    generator = np.random.default_rng(0)
    columns = {title: list(generator.integers(0, 255, (3, 8, 9, 3), dtype=np.uint8)) for title in ('truth', 'found')}
    figure = draw_image_grid(columns, tmp_path / 'grid.png')
    assert (tmp_path / 'grid.png').read_bytes()[:4] == b'\x89PNG'
    axes = np.array(figure.axes).reshape(3, 2)
    assert [axis.get_title() for axis in axes[0]] == ['truth', 'found']
    for column, images in enumerate(columns.values()):
        for axis, image in zip(axes[:, column], images):
            np.testing.assert_array_equal(axis.images[0].get_array(), image)


@pytest.mark.parametrize('columns', [{}, dict(a=[]), dict(a=[np.zeros((2, 2, 3), np.uint8)], b=[])])
def test_uneven_columns_are_refused(columns):
    with pytest.raises(ValueError, match='columns must hold'):
        draw_image_grid(columns)
