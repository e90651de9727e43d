"""Studies: what is wrong in a file, the numbers of the table, and (slow) a study that is killed and goes on."""
from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import textwrap
import time

import pytest

pytest.importorskip('mmpretrain', reason='the configs of the studies are for mmpretrain')

from ...pages import check_offline  # noqa: E402

CONFIG = 'configs/mmpretrain/resnet_afan_digits.py'


@pytest.fixture
def study():
    return importlib.import_module('mmafan.lab.study.recipe')


@pytest.fixture
def summary(study):
    return importlib.import_module('mmafan.lab.study.statistics')


@pytest.fixture
def write(repo, tmp_path):

    def write(**fields):
        values = dict(config=str(repo / CONFIG), metric='accuracy/top1', seeds=2,
                      arms=dict(baseline=dict(stock=True), afan=dict()))
        values.update(fields)
        path = tmp_path / 'mine.py'
        path.write_text('\n'.join(f'{k} = {v!r}' for k, v in values.items() if v is not ...))
        return str(path)

    return write


@pytest.mark.parametrize('fields, sentence', [
    (dict(arms=dict(afan=dict())), "arms of .* must be a dict with 'baseline' and at least one other arm"),
    (dict(arms=dict(baseline=dict())), "at least one other arm, got .'baseline'."),
    (dict(metric=...), 'metric of .* must be the name of a metric in the logs, such as mIoU, got None'),
    (dict(seeds=2.5), 'seeds of .* must be a number of at least 1 or different numbers of at least 0, got 2.5'),
    (dict(options=None), "options of .* must be a dict, such as .*, got None"),
    (dict(seeds=0), 'seeds of .* must be a number of at least 1 or different numbers of at least 0, got 0'),
    (dict(seeds=[[1]]), r'different numbers of at least 0, got \[\[1\]\]'),
    (dict(arms={'baseline': dict(), '../a': dict()}), r"the names in arms of .* name folders: .*, got '../a'"),
    (dict(data_sets={'.a': dict()}), r"the names in data_sets of .* must be texts without slashes .*, got '.a'"),
    (dict(cost_repeats=3), "has no field 'cost_repeats'"),
    (dict(seeds=[1, 1]), r'different numbers of at least 0, got \[1, 1\]'),
    (dict(seed=3), "mine.py has no field 'seed'; its fields are .*seeds"),
    (dict(arms=dict(baseline=dict(stok=True), a=dict())), "arms.baseline of .* has no field 'stok'; its fields are "
                                                          "config, options, stock, control"),
    (dict(arms=dict(baseline=dict(), a=None)), "arms.a of .* must be a dict, such as dict.options=...., got None"),
    (dict(data_sets=dict(a=3)), r"data_sets of .* must be a dict of dicts, such as .*, got .'a': 3."),
    (dict(data_sets={}), 'data_sets of .* must name at least one, got {}'),
    (dict(data_sets=dict(a=dict(root='x'))), "data_sets.a of .* has no field 'root'; its fields are config, options, "
                                             "metric"),
    (dict(config=...), r'arms.baseline.config of .* must be a config file, as the study names none'),
])
def test_a_wrong_study_is_one_sentence(study, write, capsys, fields, sentence):
    with pytest.raises(SystemExit):
        study.load_study(write(**fields))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and re.search(sentence, lines[0])


def test_a_missing_study_file_is_one_sentence(study, capsys):
    with pytest.raises(SystemExit):
        study.load_study('no/such.py')
    assert "there is no study file 'no/such.py'" in capsys.readouterr().err


def test_a_study_file_or_config_that_python_cannot_read_is_one_sentence(study, write, tmp_path, capsys):
    tool = importlib.import_module('mmafan.lab.study.command')
    broken = tmp_path / 'broken.py'
    broken.write_text('arms = dict(')
    with pytest.raises(SystemExit):
        study.load_study(str(broken))
    assert 'broken.py cannot be read: SyntaxError: ' in capsys.readouterr().err
    whole = dict(baseline=dict(stock=True), mine=dict(config='none.py'))
    for config, sentence in (('a = nothing',
                              "arms.mine of .*: .*none.py cannot be read: NameError: name 'nothing' is not defined"),
                             ('a = 1', 'arms.mine of .*: .*none.py must be a whole config, whose field model is a '
                                       'dict, got None')):
        (tmp_path / 'none.py').write_text(config)
        with pytest.raises(SystemExit):
            tool.main([write(arms=whole), '--work-dir', str(tmp_path / 'work')])
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and re.search(sentence, lines[0])


@pytest.mark.parametrize('option, sentence', [
    ({'model.afan.taps.stage1.step_size': -1.0}, 'afan.taps.stage1.step_size must be .*, got -1.0'),
    ({'model.afan.batchnorm': 'shared'}, "afan has no field 'batchnorm': did you mean 'batch_norm'"),
])
def test_a_wrong_recipe_is_one_sentence_before_anything_runs(repo, study, write, tmp_path, capsys, option, sentence):
    work = tmp_path / 'work'
    with pytest.raises(SystemExit):
        importlib.import_module('mmafan.lab.study.command').main([
            write(arms=dict(baseline=dict(stock=True), mine=dict(options=option))), '--work-dir', str(work)])
    assert re.fullmatch(f'error: arms.mine of .*mine.py: {sentence}.*\n', capsys.readouterr().err)
    compare = importlib.import_module('mmafan.lab.analyses.compare')
    [(name, value)] = option.items()
    with pytest.raises(SystemExit):
        compare.main([str(repo / CONFIG), '--work-dir', str(work), '--cfg-options', f'{name}={value}'])
    assert re.fullmatch(f'error: {sentence}.*\n', capsys.readouterr().err)
    assert not work.exists()


@pytest.mark.parametrize('metrics, sentence', [
    ({}, "has no finite 'accuracy/top1': its validation gave no number"),
    ({'accuracy/top1': float('nan')}, "has no finite 'accuracy/top1': its validation gave {'accuracy/top1': nan}"),
    ({'mIoU': 1.0}, r"metric of .*mine.py must be one of \['mIoU'\], got 'accuracy/top1'"),
])
def test_a_run_without_the_metric_is_told_and_keeps_the_others(study, write, tmp_path, capsys, metrics, sentence):
    tool, runs = importlib.import_module('mmafan.lab.study.command'), importlib.import_module('mmafan.lab.study.runs')
    path = write(seeds=1)
    [found] = study.load_study(path)
    for arm, values in (('afan', metrics), ('baseline', {'accuracy/top1': 50.0})):
        cfg = study.run_config(found, arm, 0, str(tmp_path))
        os.makedirs(cfg.work_dir)
        runs.write_json(os.path.join(cfg.work_dir, 'result.json'), dict(
            fingerprint=runs.fingerprint(cfg, {}), metrics=values, seconds=1.0, versions={}))
    with pytest.raises(SystemExit):
        tool.main([path, '--work-dir', str(tmp_path)])
    errors = capsys.readouterr().err
    assert re.search(sentence, errors) and 'Traceback' not in errors
    assert (tmp_path / 'rows.csv').read_text().splitlines()[1].startswith(',baseline,0,accuracy/top1,50.0,')


def test_a_run_ends_when_the_study_that_started_it_is_gone(repo, write, tmp_path):
    with subprocess.Popen([sys.executable, '-c', '']) as gone:
        gone.wait()
    done = subprocess.run([sys.executable, 'tools/study.py', write(), '--work-dir', str(tmp_path / 'work'), '--run', '',
                           'baseline', '0'], cwd=str(repo), env=dict(os.environ, MMAFAN_STUDY_PROCESS=str(gone.pid)),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
    assert done.returncode == 1 and not (tmp_path / 'work').exists()


def test_arms_are_configs(study, write):
    path = write(options={'train_cfg.max_epochs': 5, 'randomness.seed': 9}, seeds=[3, 8],
                 arms=dict(baseline=dict(stock=True), big=dict(options={'model.afan.taps.stage1.step_size': 0.7})))
    [found] = study.load_study(path, {'train_dataloader.batch_size': 7})
    assert found.seeds == [3, 8]
    stock, big = (study.run_config(found, arm, 8, 'work') for arm in ('baseline', 'big'))
    assert stock.model.type == 'ImageClassifier' and 'afan' not in stock.model
    assert not [h for h in stock.custom_hooks if 'AdvFeatureHook' in str(h)]
    assert big.model.afan.taps.stage1.step_size == 0.7
    for cfg, arm in ((stock, 'baseline'), (big, 'big')):
        assert cfg.train_cfg.max_epochs == 5 and cfg.randomness.seed == 8 and cfg.train_dataloader.batch_size == 7
        assert cfg.work_dir == os.path.join('work', arm, 'seed_8') and cfg.resume


def test_a_study_of_several_data_sets(study, write):
    path = write(config=..., options={'train_cfg.max_epochs': 5, 'train_dataloader.batch_size': 3},
                 data_sets=dict(digits=dict(config=CONFIG, metric='m'),
                                few=dict(config=CONFIG, options={'train_dataloader.batch_size': 6})),
                 arms=dict(baseline=dict(stock=True), long=dict(options={'train_cfg.max_epochs': 9})))
    digits, few = study.load_study(path)
    assert [(s.data_set, s.metric) for s in (digits, few)] == [('digits', 'm'), ('few', 'accuracy/top1')]
    for found, size in ((digits, 3), (few, 6)):
        object.__setattr__(found, 'path', 'here.py')  # the config above is seen from the root
        cfg = study.run_config(found, 'long', 1, 'work')
        assert (cfg.train_dataloader.batch_size, cfg.train_cfg.max_epochs) == (size, 9)
        assert cfg.work_dir == os.path.join('work', found.data_set, 'long', 'seed_1')


def test_the_verdict_by_hand(study, summary):
    """a - control is 2, 2.1, 1.9: mean 2, interval 4.302653 * 0.1 / sqrt(3) = 0.248; b - control is 1, -1, 0.3: mean
    0.1, deviation 1.0149; c - control is -1, -2, -3. The control is above the baseline by 1 in each seed."""
    arms = dict(baseline=study.Arm(stock=True), control=study.Arm(control=True), a=study.Arm(), b=study.Arm(),
                c=study.Arm())
    found = study.Study('s.py', None, arms, 'm')
    results = dict(baseline={0: 0.0, 1: 1.0, 2: 2.0}, control={0: 1.0, 1: 2.0, 2: 3.0}, a={0: 3.0, 1: 4.1, 2: 4.9},
                   b={0: 2.0, 1: 1.0, 2: 3.3}, c={0: 0.0, 1: 0.0, 2: 0.0})
    assert summary.verdict(found, results).splitlines() == [
        'Against baseline, control, the worst case over the controls:',
        '- a: +2.00 ± 0.25 to control: beats all',
        '- b: +0.10 ± 2.52 to control: above all, not beyond chance',
        '- c: -2.00 ± 2.48 to control: does not beat all']
    # Every control counts, also one above which the mean is higher, but less sure: a - noise is 5, -1.95, 2.95, with
    # mean 2 and interval 4.302653 * 3.5718 / sqrt(3) = 8.87; a - baseline is 1, 1.05, 0.95.
    found = study.Study('s.py', None, dict(baseline=study.Arm(), noise=study.Arm(control=True), a=study.Arm()), 'm')
    unsure = dict(baseline={0: 70., 1: 71., 2: 72.}, noise={0: 66., 1: 74., 2: 70.}, a={0: 71., 1: 72.05, 2: 72.95})
    assert summary.verdict(found, unsure).splitlines()[1:] == [
        '- a: +2.00 ± 8.87 to noise: above all, not beyond chance']
    plain = study.Study('s.py', None, dict(baseline=study.Arm(stock=True), a=study.Arm()), 'm')
    assert summary.verdict(plain, results) == ''


def test_the_table_by_hand(study, summary):
    """Differences +1, +2, +3: mean 2, deviation 1, and 4.302653 (t, 0.975, 2 degrees of freedom) / sqrt(3) = 2.484."""
    arms = dict(baseline=study.Arm(stock=True), a=study.Arm())
    found = study.Study('s.py', None, arms, 'm')
    results = dict(baseline={0: 10.0, 1: 20.0, 2: 30.0}, a={0: 11.0, 1: 22.0, 2: 33.0})
    rows = summary.summarise(found, results, dict(baseline=1.0, a=1.5))
    assert rows[0] == dict(arm='baseline', runs=3, mean=20.0, deviation=10.0, difference=None, interval=None,
                           compute=1.0)
    assert rows[1]['mean'] == 22 and rows[1]['difference'] == 2 and rows[1]['compute'] == 1.5
    assert rows[1]['interval'] == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert summary.table(found, rows).splitlines()[2:] == ['| baseline | 3 | 20.00 | 10.00 |  | 1.00 |',
                                                           '| a | 3 | 22.00 | 11.00 | +2.00 ± 2.48 | 1.50 |']
    small = summary.table(found, summary.summarise(found, dict(baseline={0: 0.741}, a={0: 0.748}), {}))
    assert small.splitlines()[3] == '| a | 1 | 0.7480 |  | +0.0070 |  |'
    [_, one] = summary.summarise(found, dict(baseline={0: 1.0}, a={0: 3.0}), {})
    assert (one['deviation'], one['difference'], one['interval'], one['compute']) == (None, 2.0, None, None)


def test_runs_share_the_visible_gpus(study, monkeypatch):
    tool = importlib.import_module('mmafan.lab.study.command')
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5')
    assert tool.visible_devices() == ['3', '5']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    assert tool.visible_devices() == []


@pytest.mark.slow
def test_a_run_that_fails_does_not_keep_the_others_from_running(repo, write, tmp_path):
    pytest.importorskip('sklearn', reason='the images are part of scikit-learn')
    path = write(seeds=1, options={'train_cfg.max_epochs': 1, 'train_dataloader.dataset.num_train_samples': 60},
                 arms=dict(baseline=dict(stock=True),
                           wrong=dict(options={'model.afan.taps.stage1.module': 'backbone.layer9'}), afan=dict()))
    done = subprocess.run([sys.executable, 'tools/study.py', path, '--work-dir', str(tmp_path)], cwd=str(repo),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
                          env=dict(os.environ, OMP_NUM_THREADS='1'), timeout=300)
    assert done.returncode == 2
    assert "the run of arm 'wrong' with seed 0 failed; its log is in" in done.stderr
    assert '1 runs failed; those that did not are rows of' in done.stderr.splitlines()[-1]
    arms = [line.split(',')[1] for line in (tmp_path / 'rows.csv').read_text().splitlines()]
    assert arms == ['arm', 'baseline', 'afan'] and not (tmp_path / 'table.md').exists()


@pytest.mark.slow
def test_a_killed_study_goes_on_to_the_same_table(repo, write, tmp_path):
    pytest.importorskip('sklearn', reason='the images are part of scikit-learn')
    path = write(options={'train_cfg.max_epochs': 3, 'train_dataloader.dataset.num_train_samples': 60,
                          'train_dataloader.batch_size': 20, 'default_hooks.checkpoint.interval': 1})
    environment = dict(os.environ, OMP_NUM_THREADS='1')

    def command(folder):
        tool = str(repo / 'tools' / 'study.py')
        return [sys.executable, tool, path, '--work-dir', str(tmp_path / folder), '--jobs', '2']

    def finish(folder):
        done = subprocess.run(command(folder), cwd=str(repo), env=environment, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, universal_newlines=True, timeout=600)
        assert done.returncode == 0, done.stdout[-3000:]
        rows = [line.split(',') for line in (tmp_path / folder / 'rows.csv').read_text().splitlines()]
        return done.stdout, [row[:5] + row[6:] for row in rows]  # all but the seconds

    straight, rows = finish('straight')
    with subprocess.Popen(command('killed'), cwd=str(repo), env=environment, stdout=subprocess.PIPE) as process:
        end = time.monotonic() + 300
        while not (tmp_path / 'killed' / 'afan' / 'seed_0' / 'last_checkpoint').exists() and time.monotonic() < end:
            time.sleep(0.05)
        process.kill()
    while subprocess.run(['pgrep', '-f', str(tmp_path / 'killed')], stdout=subprocess.DEVNULL).returncode == 0:
        assert time.monotonic() < end + 60, 'runs go on after the study has been killed'
        time.sleep(0.1)
    assert not (tmp_path / 'killed' / 'table.md').exists()
    _, again = finish('killed')
    assert again == rows and len(rows) == 5
    assert (tmp_path / 'killed' / 'table.md').read_text() == (tmp_path / 'straight' / 'table.md').read_text()
    assert len({row[5] for row in rows[1:]}) == 4
    assert (tmp_path / 'straight' / 'arms.png').read_bytes()[:4] == b'\x89PNG'
    page = check_offline(tmp_path / 'straight' / 'report.html', pictures=1)
    assert 'afan' in page.text and 'Study' in page.text
    third, _ = finish('straight')
    assert '[' not in third.split('| arm')[0]  # nothing ran again
    assert textwrap.dedent(third).count('| baseline | 2 |') == 1
