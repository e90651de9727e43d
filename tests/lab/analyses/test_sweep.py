"""Sweeps: the study that is written, what is wrong on the command line, and (slow) a sweep that is killed."""
from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time

import pytest
from mmengine.config import Config

from mmafan.lab.study.recipe import run_config

pytest.importorskip('mmpretrain', reason='the config of the sweep is for mmpretrain')

CONFIG = 'configs/mmpretrain/resnet_afan_digits.py'
LAYERS = ['backbone.layer1', 'backbone.layer2']


@pytest.fixture
def sweep():
    return importlib.import_module('mmafan.lab.analyses.sweep')


def arguments(repo, *more, taps=LAYERS, sizes=('0', '0.3')):
    return [str(repo / CONFIG), '--taps', *taps, '--step-sizes', *sizes, '--metric', 'accuracy/top1', *more]


def written(sweep, repo, path, *more, **fields):
    """Return the study that a command line gives."""
    args = sweep.parse_args(arguments(repo, *more, **fields))
    taps = Config.fromfile(args.config).model.afan.taps.to_dict()
    arms = sweep.make_arms(args, taps)
    sweep.write_study(args, {name: options for name, (_, options) in arms.items()}, str(path))
    [study] = sweep.load_study(str(path))
    return arms, study


def test_study_has_an_arm_for_every_cell(sweep, repo, tmp_path):
    arms, study = written(sweep, repo, tmp_path / 'sweep.py', '--seeds', '2', '--cfg-options',
                          'train_cfg.max_epochs=5')
    assert list(study.arms) == ['baseline', 'backbone.layer1 0', 'backbone.layer1 0.3', 'backbone.layer2 0',
                                'backbone.layer2 0.3']
    assert study.arms['baseline'].stock and study.seeds == [0, 1] and study.metric == 'accuracy/top1'
    for name, (cell, _) in arms.items():
        cfg = run_config(study, name, 1, str(tmp_path))
        tap = cfg.model.afan.taps.stage1
        assert (tap.module, tap.step_size, tap.step_unit) == (cell['tap'], cell['step_size'], 'std')
        assert tap.strengths == (0.5, 1.0) and tap.reinject == (False, True)  # as the config has them
        assert cfg.train_cfg.max_epochs == 5 and cfg.randomness.seed == 1


def test_strengths_are_arms_of_their_own(sweep, repo, tmp_path):
    from mmafan.config import AFANConfig
    arms, study = written(sweep, repo, tmp_path / 'sweep.py', '--strengths', '0.5', '1', '--step-unit', 'absolute',
                          taps=LAYERS[:1], sizes=['0.1'])
    assert list(arms) == ['backbone.layer1 0.1 x0.5', 'backbone.layer1 0.1 x1']
    cfg = run_config(study, 'backbone.layer1 0.1 x0.5', 0, str(tmp_path))
    tap = AFANConfig.from_dict(cfg.model.afan).taps['stage1']
    assert (tap.strengths, tap.reinject, tap.step_unit, tap.weight) == ((0.5, ), (True, ), 'absolute', (0.5, ))


def test_other_taps_stay_unless_alone(sweep, repo, tmp_path):
    config = tmp_path / 'two.py'
    config.write_text(f'_base_ = {str(repo / CONFIG)!r}\n'
                      "model = dict(afan=dict(taps=dict(other=dict(module='neck', step_size=0.5))))\n")
    for more, names in (((), {'stage1', 'other'}), (('--alone', ), {'other'})):
        args = sweep.parse_args([str(config), *arguments(repo, '--tap', 'other', *more)[1:]])
        arms = sweep.make_arms(args, Config.fromfile(str(config)).model.afan.taps.to_dict())
        sweep.write_study(args, {name: options for name, (_, options) in arms.items()}, str(tmp_path / 'sweep.py'))
        [study] = sweep.load_study(str(tmp_path / 'sweep.py'))
        cfg = run_config(study, 'backbone.layer2 0.3', 0, str(tmp_path))
        assert set(cfg.model.afan.taps) == names and cfg.model.afan.taps.other.module == 'backbone.layer2'
        if not more:
            assert cfg.model.afan.taps.stage1.module == 'backbone.layer1'


@pytest.mark.parametrize('more, fields, sentence', [
    ((), dict(taps=['backbone.layr1']), "--taps must name modules of the model, got 'backbone.layr1'; did you mean"),
    (('--tap', 'roi'), {}, "--tap must be one of the taps in the config, stage1, got 'roi'"),
    ((), dict(sizes=['-1']), "arm 'backbone.layer1 -1' of the sweep: afan.taps.stage1.step_size must be"),
    (('--strengths', '2'), {}, "arm 'backbone.layer1 0 x2' of the sweep: afan.taps.stage1.strengths"),
])
def test_wrong_arguments_are_one_sentence(sweep, repo, tmp_path, capsys, more, fields, sentence):
    with pytest.raises(SystemExit):
        sweep.main(arguments(repo, *more, '--work-dir', str(tmp_path / 'work'), **fields))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error')]
    assert len(lines) == 1 and sentence in lines[0]
    assert not (tmp_path / 'work').exists()


@pytest.mark.slow
def test_killed_sweep_goes_on_to_the_same_table(repo, tmp_path):
    pytest.importorskip('sklearn', reason='the images are part of scikit-learn')
    environment = dict(os.environ, OMP_NUM_THREADS='1')

    def command(folder):
        return [sys.executable, str(repo / 'tools' / 'analysis_tools' / 'sweep.py'),
                *arguments(repo, '--seeds', '2', '--jobs', '2', '--work-dir', str(tmp_path / folder), '--json',
                           '--cfg-options', 'train_cfg.max_epochs=3', 'train_dataloader.batch_size=20',
                           'train_dataloader.dataset.num_train_samples=60', 'default_hooks.checkpoint.interval=1',
                           taps=LAYERS[:1], sizes=['0.3'])]

    def finish(folder):
        done = subprocess.run(command(folder), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              universal_newlines=True, timeout=900)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    straight = finish('straight')
    [cell] = straight['cells']
    assert (cell['tap'], cell['step_size'], cell['strength']) == ('backbone.layer1', 0.3, None)
    assert cell['difference'] == pytest.approx(cell['mean'] - straight['baseline']['mean'])
    silent = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with subprocess.Popen(command('killed'), env=environment, **silent) as run:
        end = time.monotonic() + 600
        first = tmp_path / 'killed' / 'baseline' / 'seed_0' / 'last_checkpoint'
        while not first.exists() and time.monotonic() < end:
            time.sleep(0.05)
        run.kill()
    while subprocess.run(['pgrep', '-f', str(tmp_path / 'killed')], stdout=subprocess.DEVNULL).returncode == 0:
        assert time.monotonic() < end + 60, 'runs go on after the sweep has been killed'
        time.sleep(0.1)
    assert not (tmp_path / 'killed' / 'sweep.json').exists()
    again = finish('killed')
    assert again['cells'] == straight['cells'] and again['baseline'] == straight['baseline']
    assert (tmp_path / 'killed' / 'table.md').read_text() == (tmp_path / 'straight' / 'table.md').read_text()
    assert (tmp_path / 'killed' / 'sweep.png').stat().st_size > 5000
