"""The reports of the study and of the quick start in a headless Chromium: no error, no request, every picture."""
from __future__ import annotations

import os
import re

import pytest

pytest.importorskip('matplotlib', reason='the reports have pictures')

from ...browser import open_page  # noqa: E402


@pytest.mark.parametrize('body, sentence', [
    ('<img src="gone.png">', 'ERR_FILE_NOT_FOUND'),
    ('<script>console.error("x")</script>', r"error: \['x'\]"),
    ('<script>nothing()</script>', 'nothing is not defined'),
    ('<link rel="stylesheet" href="https://localhost:1/a.css">', 'https://localhost:1/a.css'),
])
def test_faults_of_a_page_are_seen(tmp_path, body, sentence):
    page = f'<!DOCTYPE html><html><head><link rel="icon" href="data:,"></head><body>{body}</body></html>'
    (tmp_path / 'page.html').write_text(page)
    found, _ = open_page(tmp_path / 'page.html', tmp_path / 'profile')
    assert re.search(sentence, '\n'.join(found)), found


def test_report_of_the_quick_start_opens_without_an_error(tools, tmp_path):
    import matplotlib.pyplot as plt

    from .test_quickstart import write
    report, task = tools('quickstart.report'), tools('quickstart.classification').TASK
    plt.figure(figsize=(2, 1)).savefig(tmp_path / 'curves.png', dpi=100)
    write(report, task, tmp_path, **{arm: [90.0, 92.0] for arm in task.arms})
    assert open_page(tmp_path / 'report.html', tmp_path / 'profile') == ([], [200])


def test_report_of_a_study_opens_without_an_error(tools, repo, tmp_path):
    study, tool, runs = tools('study.recipe'), tools('study.command'), tools('study.runs')
    path = tmp_path / 'mine.py'
    path.write_text(f"config = {str(repo / 'configs/mmpretrain/resnet_afan_digits.py')!r}\nmetric = 'accuracy/top1'\n"
                    'seeds = 2\narms = dict(baseline=dict(stock=True), afan=dict())\n')
    [found] = study.load_study(str(path))
    for arm in found.arms:
        for seed in range(2):
            cfg = study.run_config(found, arm, seed, str(tmp_path))
            os.makedirs(cfg.work_dir)
            runs.write_json(os.path.join(cfg.work_dir, 'result.json'), dict(
                fingerprint=runs.fingerprint(cfg, {}), metrics={'accuracy/top1': 50.0 + seed}, seconds=1.0,
                versions={}))
    tool.main([str(path), '--work-dir', str(tmp_path)])
    errors, widths = open_page(tmp_path / 'report.html', tmp_path / 'profile')
    assert not errors and len(widths) == 1 and widths[0] > 100
