"""The check of a GPU, up to its first CUDA call: limits of time, what is kept and what is told."""
from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time

import pytest
import torch


@pytest.fixture
def tool(repo, monkeypatch):
    """The module of the command."""
    return importlib.import_module('mmafan.lab.gpu_check.check')


@pytest.fixture
def check(tool, tmp_path, monkeypatch):
    """Return a function that makes the check for a folder; nothing is asked of the machine."""
    monkeypatch.setattr(tool, 'conditions_of', lambda device: dict(device='none', torch='0'))

    def make(*arguments):
        return tool.Check(tool.parse_args(['--out', str(tmp_path / 'out'), '--device', 'cpu', *arguments]))

    return make


@pytest.mark.skipif(torch.cuda.is_available(), reason='about machines without CUDA')
def test_without_a_gpu_it_ends_in_one_sentence_before_anything_runs(repo, tmp_path):
    done = subprocess.run(['bash', str(repo / 'tools' / 'gpu_check.sh'), '--out', str(tmp_path / 'out')],
                          env=dict(os.environ, PYTHON=sys.executable), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True)
    assert (done.returncode, done.stdout) == (2, '')
    [line] = [line for line in done.stderr.splitlines() if 'arning' not in line and not line.startswith(' ')]
    assert line.startswith(f'error: no CUDA device is visible to torch {torch.__version__}')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('arguments, sentence', [
    (['--parts', 'cost,speed'], "--parts must be names out of tests,cost,study, separated by commas, got 'cost,speed'"),
    (['--parts', ''], '--parts must be names out of'), (['--minutes', '0'], '--minutes must be above 0'),
    (['--epochs', '1'], '--epochs must be at least 2, got 1')])
def test_a_wrong_argument_is_one_sentence(tool, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as ended:
        tool.parse_args(arguments)
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f'error: {sentence}')


# ------------------------------------------------------------------ limits of time
SPAWN = ('import subprocess, sys, time; '
         'print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid, flush=True); ')


def is_alive(pid):
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().split()[2] != 'Z'
    except FileNotFoundError:
        return False


@pytest.mark.parametrize('ending, limits, expected', [
    ('sys.exit(3)', dict(seconds=50), 3), ('time.sleep(60)', dict(seconds=3), None),
    ('time.sleep(60)', dict(seconds=50, is_stuck=lambda: True), None)])
def test_a_command_ends_with_all_it_started(tool, tmp_path, ending, limits, expected):
    log = tmp_path / 'log'
    if 'is_stuck' in limits:
        limits = dict(limits, is_stuck=lambda: log.read_text().endswith('\n'))
    assert tool.run_limited([sys.executable, '-c', SPAWN + ending], str(log), **limits) == expected
    end = time.monotonic() + 10
    while is_alive(int(log.read_text())) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_alive(int(log.read_text()))


def test_what_a_part_has_started_ends_with_the_check(check, tool, tmp_path, monkeypatch):
    check()
    log = tmp_path / 'log'

    def interrupt():
        if log.read_text().endswith('\n'):
            os.kill(os.getpid(), signal.SIGTERM)
        return False

    monkeypatch.setattr(tool.Check, 'tests', lambda *_: tool.run_limited(
        [sys.executable, '-c', SPAWN + 'time.sleep(60)'], str(log), 50, is_stuck=interrupt))
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            tool.main(['--out', str(tmp_path / 'out'), '--device', 'cpu', '--parts', 'tests'])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143 and not is_alive(int(log.read_text()))
    assert '## tests: stopped from outside' in (tmp_path / 'out' / 'summary.md').read_text()


def test_a_command_that_does_not_listen_is_killed(tool, tmp_path):
    from mmafan.lab.processes import stop_group
    deaf = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)'
    process = subprocess.Popen([sys.executable, '-c', deaf], stdout=subprocess.PIPE, start_new_session=True)
    process.stdout.readline()
    stop_group(process, patience=0.2)
    assert process.wait(10) == -9


def test_parts_for_which_no_time_is_left_say_so(check):
    check = check('--minutes', '0.05')
    assert check.run() == 1
    assert '## study: not run: no time was left' in summary(check)


def summary(check):
    with open(check.path('summary.md')) as file:
        return file.read()


# ------------------------------------------------------------------ what is kept
def test_a_finished_part_is_not_run_again_and_one_that_raises_does_not_stop_the_next(check, tool, monkeypatch):
    calls = []

    def part(name, status):
        def run(self, known, limit):
            calls.append(name)
            if status is None:
                raise OSError('no room')
            return status
        monkeypatch.setattr(tool.Check, name, run)

    part('tests', 'finished')
    part('cost', None)
    part('study', 'stopped after 3 s')
    assert check().run() == 1
    part('cost', 'finished')
    again = check()
    assert again.run() == 1
    assert calls == ['tests', 'cost', 'study', 'cost', 'study']
    part('study', 'finished')
    assert check().run() == 0
    assert '## cost: finished (0 s)' in summary(again)


def test_results_of_another_machine_are_not_mixed(check, tool, monkeypatch, capsys):
    check()
    monkeypatch.setattr(tool, 'conditions_of', lambda device: dict(device='another', torch='0'))
    with pytest.raises(SystemExit):
        check()
    assert 'name another folder' in capsys.readouterr().err


# ------------------------------------------------------------------ tests
def test_outcomes_and_what_was_measured_are_told(check, tool, tmp_path, monkeypatch):
    folder = tmp_path / 'tests' / 'gpu'
    folder.mkdir(parents=True)
    (folder / 'test_some.py').write_text('''
import pytest
pytestmark = pytest.mark.gpu

@pytest.mark.parametrize('x', ['overflow a', 'overflow b'])
def test_good(x):
    print('measured: waits', x)

def test_overflow_bad():
    assert 1 == 2

def test_overflow_left_out():
    pytest.skip('no such thing')
''')
    monkeypatch.setattr(tool, 'ROOT', str(tmp_path))
    check = check('--parts', 'tests')
    assert check.run() == 1
    known = check.state['tests']
    assert known['status'] == 'finished'
    assert dict(known['outcomes']) == dict(passed=2, failed=1, skipped=1)
    assert known['failed'] == ['tests/gpu/test_some.py::test_overflow_bad']
    text = summary(check)
    for word in ('2 passed', '- measured: waits overflow b', '- FAILED tests/gpu/test_some.py::test_overflow_bad - ',
                 'no such thing'):
        assert word in text


def test_without_tests_it_has_failed(check, tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, 'ROOT', str(tmp_path))
    check = check('--parts', 'tests')
    assert check.run() == 1 and check.state['tests']['status'].startswith('failed: pytest ended with status')


# ------------------------------------------------------------------ costs
RESULT = dict(theory=1.4, seconds=dict(baseline=0.01, afan=0.015),
              ratios=dict(afan_over_baseline=1.5, afan_over_theory=1.07, published_over_baseline=2.25,
                          afan_memory_over_baseline=1.1, published_memory_over_baseline=1.5))
WORKER = f'''
import json, sys, time
events, device, *rows = sys.argv[1:]
def tell(**fields):
    with open(events, 'a') as file:
        file.write(json.dumps(dict(fields, time=time.time())) + chr(10))
for row in rows:
    tell(row=row)
    if 'ResNet-50' in row:
        tell(row=row, error='ValueError: too large')
        sys.exit(1)
    if 'DeepLab' in row:
        sys.exit(9)
    if '16 images' in row:
        time.sleep(60)
    tell(row=row, result={RESULT!r})
'''


def test_rows_that_fail_or_hang_do_not_stop_the_others(check, tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, 'MEASURE', [sys.executable, '-c', WORKER])
    monkeypatch.setattr(tool, 'ROW_LIMIT', 8.0)
    monkeypatch.setattr(tool, 'ROWS', {row: fields for row, fields in tool.ROWS.items() if 'float16' in row})
    check = check('--parts', 'cost')
    assert check.run() == 1
    rows = check.state['cost']['rows']
    assert {row: fields.get('error', 'measured') for row, fields in rows.items()} == {
        'ResNet-18 (CIFAR), 128 images, float16': 'measured',
        'ResNet-18 (CIFAR), 16 images, float16': rows['ResNet-18 (CIFAR), 16 images, float16']['error'],
        'ResNet-50, 64 images, float16': 'ValueError: too large',
        'DeepLabV3+ R50, 4 images, float16': 'its process ended with status 9',
        'Faster R-CNN R50-FPN, 2 images, float16': 'measured'}
    assert rows['ResNet-18 (CIFAR), 16 images, float16']['error'].startswith('stopped after ')
    assert len(check.state['cost']['failed']) == 3
    text = summary(check)
    assert '| Faster R-CNN R50-FPN, 2 images, float16 | 10.0 | 1.50 | 1.40 | 1.07 | 2.25 | 1.10 | 1.50 |' in text
    assert '| ResNet-50, 64 images, float16 | ValueError: too large |' in text
    assert '| ResNet-50, 64 images, float32 | not run: no time was left |' in text


@pytest.mark.parametrize('device', ['cuda', 'cpu'])
def test_every_row_names_a_config_and_arguments_of_step_cost(tool, device):
    from mmafan.lab.analyses import step_cost
    from mmafan.lab.gpu_check import cost
    for row in tool.ROWS:
        args = step_cost.parse_args(cost.arguments_of(row, device))
        assert os.path.isfile(args.config) and args.device == device and args.synthetic
        kind = (args.cfg_options or {}).get('optim_wrapper.dtype')
        assert kind == (None if 'float32' in row else 'float16' if device == 'cuda' else 'bfloat16')
    assert tool.STUDY_ROW in tool.ROWS


@pytest.mark.slow
def test_a_row_is_measured(tool, repo, tmp_path):
    pytest.importorskip('mmpretrain', reason='the row is a model of mmpretrain')
    from mmafan.lab.gpu_check.cost import read_events
    row, events = 'ResNet-18 (CIFAR), 16 images, float32', tmp_path / 'events'
    subprocess.run([*tool.MEASURE, str(events), 'cpu', row],
                   check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert read_events(str(events))[row]['result']['ratios']['afan_over_baseline'] > 1


# ------------------------------------------------------------------ study
def test_without_its_data_the_study_says_so(check, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check = check('--parts', 'study')
    assert check.run() == 1
    assert "## study: not run: there is no folder 'data/cifar10_jpg'" in summary(check)


def test_the_epochs_fit_into_the_time(check, tool):
    check = check()
    assert check.epochs_for(300) == 8  # nothing has been measured
    check.state['cost'] = dict(rows={tool.STUDY_ROW: dict(result=RESULT)})
    # 79 steps, three seeds: 1 + 1.5 baselines of 10 ms and 2 arms of 15 ms, and a quarter in reserve
    assert check.epochs_for(345) == int(300 / (1.25 * 79 * 3 * (2.5 * 0.01 + 2 * 0.015)))
    assert (check.epochs_for(50), check.epochs_for(1e6)) == (4, 100)


def test_the_length_reaches_every_run_and_what_has_ended_is_told(check, tool, tmp_path, monkeypatch):
    (tmp_path / 'data' / 'cifar10_jpg').mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    seen = {}

    def run_limited(command, log, limit, environment):
        seen.update(environment=environment, command=command)
        rows = 'data_set,arm,seed,metric,value\n,baseline,0,accuracy/top1,60\n,baseline,1,accuracy/top1,62\n' \
               ',A-FAN,0,accuracy/top1,63\n'
        with open(os.path.join(check.args.work_dir, 'rows.csv'), 'w') as file:
            file.write(rows)

    check = check('--parts', 'study', '--epochs', '12')
    monkeypatch.setattr(tool, 'run_limited', run_limited)
    assert check.run() == 1
    assert seen['environment'] == dict(MMAFAN_STUDY_EPOCHS='12')
    text = summary(check)
    assert '## study: stopped after' in text and 'MMAFAN_STUDY_EPOCHS=12' in text
    assert '| baseline | 2 | 61.00 |' in text and '| A-FAN | 1 | 63.00 |  | +3.00 |' in text
    assert '| noise | 0 |  |' in text
    assert os.path.isfile(check.path('study_rows.csv'))


@pytest.mark.parametrize('epochs', [7, 30])
def test_the_study_reads_its_length_from_the_environment(tool, monkeypatch, epochs):
    pytest.importorskip('mmpretrain', reason='the study is one of mmpretrain')
    if epochs != 30:
        monkeypatch.setenv('MMAFAN_STUDY_EPOCHS', str(epochs))
    study = importlib.import_module('mmafan.lab.study.recipe')
    [found] = study.load_study(tool.STUDY)
    lengths = {arm: study.run_config(found, arm, 0, 'work').train_cfg.max_epochs for arm in found.arms}
    assert lengths == {'baseline': epochs, 'equal compute': epochs * 3 // 2, 'noise': epochs, 'A-FAN': epochs}
    wrapper = study.run_config(found, 'A-FAN', 0, 'work').optim_wrapper
    assert (wrapper.type, wrapper.dtype, wrapper.optimizer.weight_decay) == ('AmpOptimWrapper', 'bfloat16', 5e-4)
