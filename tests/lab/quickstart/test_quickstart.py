"""The demo: its report's content, and that a killed demo goes on where it stopped."""
from __future__ import annotations

import dataclasses
import json
import os
import re

import pytest

pytest.importorskip('mmpretrain', reason='the demo trains a model of mmpretrain')
pytest.importorskip('sklearn', reason='the images are part of scikit-learn')
pytest.importorskip('matplotlib', reason='the report has pictures')

from ...pages import check_offline  # noqa: E402


@pytest.fixture
def report(tools):
    return tools('quickstart.report')


@pytest.fixture
def task(tools):
    return tools('quickstart.classification').TASK


@pytest.fixture
def detection(tools):
    pytest.importorskip('mmdet', reason='the configs inherit from those of mmdet')
    return tools('quickstart.detection').TASK


@pytest.fixture
def segmentation(tools):
    pytest.importorskip('mmseg', reason='the configs inherit from those of mmseg')
    return tools('quickstart.segmentation').TASK


ATTACKED = 'share of steps attacked'
COST = dict(
    seconds=dict(baseline=0.010, afan=0.023),
    suffixes=dict(stage1=dict(share=0.65, passes=2.0)),
    theory=2.3,
    ratios=dict(afan_over_baseline=2.358))


def write(report, task, folder, **values):
    """Write a report of one value per seed for each arm; every further metric is larger by 10."""
    results = {('', arm, seed): dict(
        {'metrics': {m.key: (v + 10 * i) / m.factor for i, m in enumerate(task.metrics)}, 'reused': False},
        **({ATTACKED: 0.4 + 0.2 * seed} if arm == 'afan' else {}))
        for arm, own in values.items() for seed, v in enumerate(own)}
    study = dataclasses.replace(task, prepare=dict).study(len(values['afan']), 60)
    return report.write_report(task, study, str(folder), results, COST, 60, '## Pictures\n', 12.3)


def test_numbers_in_the_tables(report, task, tmp_path, read_row):
    text = write(report, task, tmp_path, baseline=[90.0, 92.0, 94.0], equal_compute=[91.0, 92.0, 93.0],
                 noise=[92.0, 92.0, 92.0], afan=[91.0, 94.0, 97.0])
    assert (tmp_path / 'report.md').read_text() == text
    page = check_offline(tmp_path / 'report.html', pictures=0)  # nothing was drawn
    [command] = [row[-1] for row in page.cells if row[:-1] == ['noise', '1', '92.00', '102.00']]
    assert f'--work-dir {tmp_path}/noise/seed_1 --resume --cfg-options randomness.seed=1 train_cfg' in command
    assert 'Pictures' in page.text
    # Intervals: 4.303 / sqrt(3) = 2.484 times the deviation of the differences, which are here -1, 0, 1 or their like.
    assert read_row(text, 'baseline | 60')[1:-1] == ['60', '92.00 ± 2.00', '102.00 ± 2.00', '', '+2.00 ± 2.48']
    assert read_row(text, 'equal compute | 118')[2:-1] == [
        '92.00 ± 1.00', '102.00 ± 1.00', '+0.00 ± 2.48', '+2.00 ± 4.97']
    assert read_row(text, 'noise | 60')[2:-1] == ['92.00 ± 0.00', '102.00 ± 0.00', '+0.00 ± 4.97', '+2.00 ± 7.45']
    assert read_row(text, 'A-FAN | 60')[2:-1] == ['94.00 ± 3.00', '104.00 ± 3.00', '+2.00 ± 2.48', '']
    assert read_row(text, 'noise | 1 ') == ['noise', '1', '92.00', '102.00', f'`{command}`']
    assert 'interval to baseline and to equal compute and to noise is not above 0. ' in text
    assert '## Pictures' in text


def test_cost_counts_the_steps_in_which_it_is_on(report, task, tmp_path, read_row):
    ones = [90.0, 91.0]
    text = write(report, task, tmp_path, baseline=ones, equal_compute=ones, noise=ones, afan=ones)
    assert read_row(text, 'measured cost')[1] == '2.36'
    assert read_row(text, 'theoretical cost')[1].startswith('2.30 (tap `stage1`: tau = 0.65, 2 passes)')
    assert read_row(text, 'median step')[1] == '10.0 and 23.0'
    assert read_row(text, 'share of steps attacked')[1] == '0.50'
    assert read_row(text, 'cost of a run')[1] == '1.68'  # 1 + 0.5 * 1.358


@pytest.mark.parametrize('name', ['task', 'detection', 'segmentation'])
def test_every_number_has_its_command(report, tmp_path, name, request):
    task = request.getfixturevalue(name)
    text = write(report, task, tmp_path, **{arm: [90.0, 92.0] for arm in task.arms})
    rows = [line for line in text.splitlines() if line.startswith('| ') and any(c.isdigit() for c in line)
            and not line.startswith('| arm')]
    assert len(rows) == len(task.arms) + 5 + 2 * len(task.arms)
    assert all(re.search(r'`[^`]+` \|$', line) for line in rows)


@pytest.mark.parametrize('noise, sentence', [
    ([1.0, 2.0, 3.1], 'interval to noise is not above 0'),  # 2.03 ± 2.61
    ([2.0, 2.0, 2.1], 'is above every other arm (baseline, noise) beyond chance'),
    ([-2.0, -2.0, -2.1], 'interval to noise is not above 0'),
    ([2.0], 'One seed says nothing about chance'),
])
def test_verdict_looks_at_every_interval(report, noise, sentence):
    assert sentence in report.verdict(dict(baseline=[5.0, 5.1, 5.2][:len(noise)], noise=noise))


def test_report_ends_its_results_with_what_they_do_not_show(report, task, detection, tmp_path):
    for one, words in ((task, 'it does not show'), (detection, 'is no evidence for or against the method')):
        text = write(report, one, tmp_path, **{arm: [90.0, 92.0] for arm in one.arms})
        assert words in text.split('## Results')[1].split('\n## ')[0]


def test_equal_compute_computes_what_afan_does(repo, task):
    from mmengine.config import Config

    from mmafan.analysis import count_training_flops
    baseline, afan = (count_training_flops(Config.fromfile(str(repo / task.arms[arm].config)))
                      for arm in ('baseline', 'afan'))
    assert task.arms['equal_compute'].length == pytest.approx(afan / baseline, abs=0.005)


def test_controls_differ_from_their_arm_in_what_they_say(tools, task):
    study = task.study(1, 60)
    cfg = {arm: tools('study.recipe').run_config(study, arm, 0, 'demo') for arm in task.arms}
    assert {arm: one.train_cfg.max_epochs for arm, one in cfg.items()} == dict(
        baseline=60, equal_compute=118, noise=60, afan=60)
    assert cfg['noise'].model.afan.taps.backbone.pop('direction') == 'random_sign'
    assert cfg['noise'].model == cfg['afan'].model
    assert cfg['equal_compute'].model == cfg['baseline'].model


@pytest.mark.parametrize('arguments, word', [(['translation'], 'classification, detection and segmentation'),
                                             (['--seeds', '0'], '--seeds'), (['--epochs', '0'], '--epochs')])
def test_what_cannot_run_is_one_sentence(quickstart, capsys, arguments, word):
    with pytest.raises(SystemExit) as error:
        quickstart.main(arguments)
    assert error.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert word in lines[0]


@pytest.mark.parametrize('name', ['task', 'detection', 'segmentation'])
def test_commands_of_the_report_can_be_parsed(tools, repo, name, request):
    import shlex
    task = request.getfixturevalue(name)
    words = shlex.split(task.cost_command)
    assert (repo / words[1]).is_file()
    assert (repo / words[2]).is_file()
    args = tools('analyses.step_cost').parse_args(words[2:])
    assert (args.repeats, args.threads) == (task.cost_repeats, 1)


def test_every_task_is_found_by_its_name(quickstart):
    tasks = [quickstart.load_task(name) for name in quickstart.TASKS]
    assert [task.name for task in tasks] == list(quickstart.TASKS) == ['classification', 'detection', 'segmentation']
    assert len({task.work_dir for task in tasks}) == len(tasks)
    for task in tasks:
        assert (list(task.arms)[0], list(task.arms)[-1]) == ('baseline', 'afan')


@pytest.mark.parametrize('name', ['task', 'detection', 'segmentation'])
def test_settings_tell_runs_apart(tools, name, request, tmp_path):
    task = dataclasses.replace(request.getfixturevalue(name), prepare=dict)
    recipe, runs = tools('study.recipe'), tools('study.runs')

    def identity(arm, seed, epochs, folder, **data):
        study = dataclasses.replace(task, prepare=lambda: data).study(seed + 1, epochs)
        return runs.fingerprint(recipe.run_config(study, arm, seed, str(folder)), study.identity)

    one = identity('afan', 0, 2, tmp_path)
    assert one == identity('afan', 0, 2, tmp_path / 'elsewhere')
    for other in (('baseline', 0, 2), ('afan', 1, 2), ('afan', 0, 3)):
        assert one != identity(*other, tmp_path)
    assert one != identity('afan', 0, 2, tmp_path, num_train=7)


@pytest.mark.parametrize('name', ['task', 'detection', 'segmentation'])
def test_the_command_of_a_run_trains_what_the_demo_trains(tools, report, repo, name, request, monkeypatch):
    import shlex
    monkeypatch.chdir(repo)
    study = dataclasses.replace(request.getfixturevalue(name), prepare=dict).study(2, 60)
    train, configs, runs = tools('train'), tools('configs'), tools('study.runs')
    for arm in study.arms:
        args = train.parse_args(shlex.split(report.train_command(study, arm, 1, 'demo'))[2:])
        cfg = configs.load_config(args.config, args.cfg_options)
        train.apply_args(cfg, args)
        expected = tools('study.recipe').run_config(study, arm, 1, 'demo')
        assert runs.fingerprint(cfg, {}) == runs.fingerprint(expected, {}) and cfg.work_dir == expected.work_dir


@pytest.mark.slow
def test_whole_demo(quickstart, task, tmp_path, read_row, check_cost):
    afan = dataclasses.replace(task.arms['afan'], options={'custom_hooks.0.fit_threshold': 1.0})  # on from the start
    task = dataclasses.replace(task, arms=dict(task.arms, afan=afan))
    text = quickstart.run_demo(task, str(tmp_path), seeds=1, epochs=2)
    accuracy = {arm.title: [float(cell) for cell in read_row(text, f'{arm.title} | {arm.num_epochs(2)}')[2:4]]
                for arm in task.arms.values()}
    assert all(0 < value < 100 for pair in accuracy.values() for value in pair)
    check_cost(text)
    for picture in ('curves.png', 'features.png'):
        assert f']({picture})' in text
        assert (tmp_path / picture).read_bytes()[:4] == b'\x89PNG'
    # The curve holds the validation on test images alone, not the measure on training images.
    [log] = tmp_path.glob('afan/seed_0/*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert any('adv_backbone_0.loss' in line for line in lines)
    assert 0 < float(read_row(text, 'share of steps attacked')[1]) <= 1
    shown = [line['accuracy/top1'] for line in lines if 'accuracy/top1' in line]
    assert shown == pytest.approx([accuracy['A-FAN'][0]], abs=0.01)
    stored = json.loads((tmp_path / 'afan' / 'seed_0' / 'result.json').read_text())
    keys = ('accuracy/top1', 'training accuracy/top1')
    assert [stored['metrics'][key] for key in keys] == pytest.approx(accuracy['A-FAN'], abs=0.01)


@pytest.mark.slow
def test_arms_start_alike_and_finished_runs_are_not_repeated(train_run, task, tmp_path):
    import torch
    from mmengine.hooks import Hook
    seen = []

    class Look(Hook):

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 0:
                inputs = torch.stack([i.float() for i in data_batch['inputs']])
                seen.append((inputs, [p.detach().clone() for p in runner.model.parameters()]))

    results = [train_run(task, arm, 1, tmp_path, hooks=(Look(), )) for arm in ('baseline', 'afan')]
    assert [r['reused'] for r in results] == [False, False]
    (images, weights), (other_images, other_weights) = seen
    assert torch.equal(images, other_images)
    assert len(weights) == len(other_weights)
    assert all(torch.equal(a, b) for a, b in zip(weights, other_weights))
    again = train_run(task, 'baseline', 1, tmp_path, hooks=(Look(), ))
    assert again['reused']
    assert again['metrics'] == results[0]['metrics']
    assert len(seen) == 2


@pytest.mark.slow
def test_killed_run_goes_on(train_run, task, tmp_path):
    from mmengine.hooks import Hook

    class Kill(Hook):
        priority = 'VERY_LOW'

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.epoch == 2:
                raise KeyboardInterrupt

    epochs = []
    straight = train_run(task, 'baseline', 4, tmp_path / 'straight')
    with pytest.raises(KeyboardInterrupt):
        train_run(task, 'baseline', 4, tmp_path / 'killed', hooks=(Kill(), ))
    resumed = train_run(task, 'baseline', 4, tmp_path / 'killed', lambda epoch, _: epochs.append(epoch))
    assert epochs == [3, 4]
    assert resumed['metrics'] == straight['metrics']
    assert not os.path.exists(tmp_path / 'killed' / 'baseline' / 'seed_0' / 'result.json.part')
