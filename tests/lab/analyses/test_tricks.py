"""The command that measures what could make a step cheaper: what it prints, and what it refuses."""
from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mmafan.lab.analyses import tricks

pytest.importorskip('mmpretrain', reason='the config measured here is for classification')


def run(repo, *arguments):
    return subprocess.run([sys.executable, 'tools/analysis_tools/tricks.py', 'configs/mmpretrain/resnet_afan_digits.py',
                           '--threads', '1', '--device', 'cpu', *arguments], cwd=repo, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True)


@pytest.mark.slow
def test_every_trick_stands_beside_what_it_would_replace(repo):
    done = run(repo, '--batch-size', '16', '--image-size', '32', '--repeats', '2', '--passes', '3', '--json')
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result['passes'], result['batch_size'], result['image_size']) == (3, 16, [32, 32])
    names = {'baseline', 'A-FAN', 'in turn', 'concatenated', 'baseline, channels-last', 'A-FAN, channels-last',
             'A-FAN, same perturbation'}
    assert set(result['seconds']) == set(result['memory_bytes']) == names
    assert min(result['seconds'].values()) > 0
    assert result['memory_bytes']['concatenated'] > result['memory_bytes']['in turn']


def test_a_wrong_number_is_refused(repo, capsys):
    with pytest.raises(SystemExit) as end:
        tricks.main([str(repo / 'configs/mmpretrain/resnet_afan_digits.py'), '--passes', '0'])
    assert end.value.code == 2 and '--passes must be at least 1, got 0' in capsys.readouterr().err
