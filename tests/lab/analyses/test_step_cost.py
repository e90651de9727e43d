"""The command: what it prints, and what it says of a wrong config."""
from __future__ import annotations

import json
import os.path as osp
import subprocess
import sys

import pytest

from mmafan.lab.analyses import step_cost

pytest.importorskip('mmpretrain', reason='the configs measured here are for classification')

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__)))))
TOOL = osp.join(ROOT, 'tools', 'analysis_tools', 'step_cost.py')
CONFIGS = osp.join(ROOT, 'configs', 'mmpretrain')
TINY = ['--batch-size', '2', '--image-size', '16', '--repeats', '2', '--warmup', '1', '--threads',
        '1', '--device', 'cpu', '--synthetic']


@pytest.fixture
def run(capsys):
    """Return a function that runs the command in this process; its exit status and what it has printed."""

    def run(*arguments):
        status = 0
        try:
            step_cost.main(arguments)
        except SystemExit as end:
            status = end.code
        return (status, *capsys.readouterr())

    return run


def test_json_has_the_documented_keys(run):
    status, out, errors = run(osp.join(CONFIGS, 'resnet56s_afan_cifar10.py'), *TINY, '--json', '--schedule',
                              'two_phase', '--cfg-options', 'model.backbone.depth=20',
                              'model.afan.taps.backbone.num_steps=2')
    assert status == 0, errors
    result = json.loads(out)
    assert set(result) == {
        'config', 'data', 'batch_size', 'image_size', 'device', 'threads', 'torch', 'repeats',
        'clock', 'schedule', 'seconds', 'rounds', 'suffixes', 'theory', 'memory_bytes', 'ratios',
        'processes', 'exchanged'}
    for name in ('seconds', 'rounds', 'memory_bytes'):
        assert set(result[name]) == {'baseline', 'afan', 'published'}
    assert all(len(values) == 2 for values in result['rounds'].values())
    suffix = result['suffixes']['backbone']
    assert set(suffix) == {'share', 'attack_share', 'passes', 'attack_passes', 'fraction'}
    assert 0 < suffix['share'] < 1 and suffix['attack_share'] > 0 and suffix['attack_passes'] == 1
    assert result['theory'] == pytest.approx(1 + suffix['share'] + suffix['attack_share'])
    assert result['ratios']['afan_over_baseline'] == pytest.approx(
        result['seconds']['afan'] / result['seconds']['baseline'])
    assert result['ratios']['published_over_afan'] == pytest.approx(
        result['seconds']['published'] / result['seconds']['afan'])
    assert (result['data'], result['image_size'], result['threads']) == ('random', [16, 16], 1)
    assert (result['schedule'], result['clock']) == ('two_phase', 'wall')
    assert (result['processes'], result['exchanged']) == (1, {})


@pytest.mark.slow
@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
def test_two_processes_exchange_every_gradient_once(schedule):
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope
    done = subprocess.run([sys.executable, TOOL, osp.join(CONFIGS, 'resnet_afan_digits.py'), *TINY, '--json',
                           '--processes', '2', '--schedule', schedule], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result['processes'], set(result['seconds'])) == (2, {'baseline', 'afan'})
    init_default_scope('mmpretrain')
    model = MODELS.build(Config.fromfile(osp.join(CONFIGS, 'resnet_digits.py')).model)
    num_bytes = sum(4 * p.numel() for p in model.parameters())
    assert result['exchanged']['baseline'] == result['exchanged']['afan']
    assert result['exchanged']['afan']['bytes'] == num_bytes


def test_table_names_every_quantity(run):
    status, out, errors = run(osp.join(CONFIGS, 'resnet56s_afan-economy_cifar10.py'), *TINY, '--cpu-time',
                              '--cfg-options', 'model.backbone.depth=20')
    assert status == 0, errors
    lines = out.splitlines()
    assert lines[0].startswith('resnet56s_afan-economy_cifar10.py: 2 16 x 16 random images')
    assert lines[0].endswith('2 interleaved steps (processor time)')
    starts = [line.split('  ')[0] for line in lines]
    for name in ('baseline', 'A-FAN (auto)', 'published', 'theory'):
        assert name in starts
    assert any(line.startswith('tap backbone: tau 0.') and '50% of the samples' in line
               for line in lines)
    assert lines[-1].startswith('published / A-FAN ')


@pytest.mark.parametrize('name, sentence', [
    ('resnet56s_cifar10.py', "error: model.type must be 'mmafan.AFAN<Stock>'"),
    ('resnet56s_afan_cifar.py', "error: there is no config file '"),
])
def test_wrong_config_is_one_sentence(run, name, sentence):
    status, out, errors = run(osp.join(CONFIGS, name), *TINY)
    assert status == 2 and out == '' and errors.splitlines()[-1].startswith(sentence)


def test_wrong_number_is_refused(run):
    status, _, errors = run(osp.join(CONFIGS, 'resnet56s_afan_cifar10.py'), '--repeats', '0')
    assert status == 2 and 'must be at least 1, got 0' in errors
