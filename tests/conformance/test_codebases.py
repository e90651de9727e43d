"""One family of each codebase, by the tool."""
from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize('codebase, family, taps', [
    ('mmpretrain', 'mocov2', ['backbone.layer2']), ('mmdet', 'retinanet', ['backbone.layer2']),
    ('mmseg', 'fcn', None)])
def test_a_family_passes(codebase, family, taps, repo, tmp_path):
    pytest.importorskip(codebase, reason=f'{codebase} is not installed')
    rows = tmp_path / 'rows.json'
    done = subprocess.run([sys.executable, str(repo / 'tools/analysis_tools/conformance.py'), '--codebase', codebase,
                           '--family', family, '--json', str(rows)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    row, = json.loads(rows.read_text())
    assert row['outcome'] == 'passed' and row['before'] and row['after']
    assert taps is None or list(row['taps'].values()) == taps
    assert '1 families: 1 passed, 0 explained, 0 failed' in done.stdout


def test_wrong_arguments_end_in_a_sentence(repo):
    done = subprocess.run([sys.executable, str(repo / 'tools/analysis_tools/conformance.py'), '--codebase', 'mmdett'],
                          capture_output=True, text=True)
    assert done.returncode == 2 and "--codebase must be one of" in done.stderr
