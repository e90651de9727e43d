"""Curves are read from mmengine's own log files, and summarised over seeds."""
from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip('matplotlib', reason='curves are drawn by matplotlib')

from mmafan.visualization import draw_curves, read_scalars, summarize_curves  # noqa: E402


def write_log(work_dir, time, entries, tail=''):
    folder = work_dir / time / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text(''.join(json.dumps(e) + '\n' for e in entries) + tail)


def test_reads_what_mmengine_writes(tmp_path):
    """Against the real backend, so that a change of its format is noticed."""
    from mmengine.visualization import LocalVisBackend
    backend = LocalVisBackend(save_dir=str(tmp_path / '20250101_000000' / 'vis_data'))
    for step in (1, 2, 3):
        backend.add_scalars({'loss': 1.0 / step, 'lr': 0.1}, step=step)
    backend.add_scalars({'accuracy/top1': 90.0}, step=1)
    assert read_scalars(tmp_path, 'loss') == {1: 1.0, 2: 0.5, 3: 1 / 3}
    assert read_scalars(tmp_path, 'accuracy/top1') == {1: 90.0}


def test_resumed_run_is_one_curve(tmp_path):
    write_log(tmp_path, '20250101_000000', [dict(loss=3.0, step=1), dict(loss=9.0, step=2)], tail='{"loss": 7.0, "st')
    write_log(tmp_path, '20250101_000100', [dict(loss=2.0, step=2), dict(loss=1.0, step=3)])
    assert read_scalars(tmp_path, 'loss') == {1: 3.0, 2: 2.0, 3: 1.0}


def test_no_log(tmp_path):
    with pytest.raises(FileNotFoundError, match='scalars.json'):
        read_scalars(tmp_path, 'loss')


def test_unknown_name_lists_the_known(tmp_path):
    write_log(tmp_path, '20250101_000000', [dict(loss=3.0, lr=0.1, step=1)])
    with pytest.raises(ValueError, match="got 'los'; there are loss, lr"):
        read_scalars(tmp_path, 'los')


def test_summary_is_mean_and_unbiased_deviation_at_common_steps():
    steps, mean, deviation = summarize_curves([{1: 1.0, 2: 4.0}, {1: 3.0, 2: 4.0, 3: 9.0}])
    np.testing.assert_array_equal(steps, [1, 2])
    np.testing.assert_allclose(mean, [2, 4])
    np.testing.assert_allclose(deviation, [np.sqrt(2), 0])


def test_single_run_has_no_band():
    assert summarize_curves([{1: 1.0, 2: 4.0}])[2].tolist() == [0, 0]


@pytest.mark.parametrize('curves, message', [([], 'at least one'), ([{1: 1.0}, {2: 1.0}], 'no step in common')])
def test_nothing_to_summarize(curves, message):
    with pytest.raises(ValueError, match=message):
        summarize_curves(curves)


def test_figure_has_a_line_for_every_arm(tmp_path):
    runs = {}
    for arm in ('baseline', 'A-FAN'):
        for seed in (0, 1):
            folder = tmp_path / arm / str(seed)
            write_log(folder, '20250101_000000', [dict(loss=float(seed + s), acc=50.0, step=s) for s in (1, 2)])
            runs.setdefault(arm, []).append(folder)
    path = tmp_path / 'curves.png'
    figure = draw_curves(runs, ('loss', 'acc'), labels=dict(acc='accuracy (%)'),
                         units=dict(acc='epoch'), path=path)
    assert [len(panel.lines) for panel in figure.axes] == [2, 2]
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [1.5, 2.5])
    assert figure.axes[1].get_ylabel() == 'accuracy (%)'
    assert [panel.get_xlabel() for panel in figure.axes] == ['step', 'epoch']
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ['baseline (n=2)', 'A-FAN (n=2)']
    assert path.read_bytes()[:4] == b'\x89PNG'
