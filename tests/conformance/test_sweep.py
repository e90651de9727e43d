"""A sweep: processes, time limits, rows that stay, outcomes that are true."""
from __future__ import annotations

import os
import time

import pytest
import torch

from mmafan.conformance import arms, sweep, trial
from mmafan.conformance.row import OUTCOMES, Row
from mmafan.conformance.sweep import read_rows, run_sweep
from mmafan.conformance.table import MARK, render_table, summarize, write_table
from mmafan.conformance.trial import try_config, try_family

pytest.importorskip('mmpretrain.models', reason='the families are those of mmpretrain')


def try_made_up(codebase, family, device):
    if family == 'slow':
        time.sleep(600)
    if family == 'dead':
        raise SystemExit(3)
    outcome = 'failed' if family == 'bad' else 'passed'
    return Row(codebase, family, f'{codebase}::{family}/x.py', outcome, seconds=1.0, device=device)


@pytest.fixture
def made_up(monkeypatch):
    monkeypatch.setattr(sweep, 'try_family', try_made_up)


def test_every_family_has_a_row_and_the_file_resumes(made_up, tmp_path):
    path, said = str(tmp_path / 'new' / 'rows.json'), []
    run_sweep('mmpretrain', ['b', 'dead', 'a', 'bad'], path, jobs=3, say=said.append)
    run_sweep('mmpretrain', ['slow'], path, seconds=1, say=said.append)
    rows = {row['family']: row for row in read_rows(path)}
    assert list(rows) == ['a', 'b', 'bad', 'dead', 'slow'] and len(said) == 5
    assert rows['a']['outcome'] == 'passed' and rows['a']['config'] == 'mmpretrain::a/x.py'
    assert rows['slow']['outcome'] == 'failed' and rows['slow']['reason'] == 'took longer than 1 s'
    assert rows['dead']['reason'] == 'ended with status 3'
    said.clear()
    run_sweep('mmpretrain', ['a', 'c'], path, say=said.append)
    assert len(said) == 1 and len(read_rows(path)) == 6
    said.clear()
    run_sweep('mmpretrain', ['a', 'bad'], path, again=['failed'], say=said.append)
    assert len(said) == 1 and {row['family'] for row in read_rows(path)} == {'a', 'b', 'c', 'bad'} | {'dead', 'slow'}


@pytest.mark.slow
def test_spawned_processes_try_one_family_after_another(tmp_path):
    """As they have to on a GPU; a family that fails costs its process."""
    path = str(tmp_path / 'rows.json')
    rows = run_sweep('mmpretrain', ['lenet', 'no_such_family', 'resnet'], path, spawn=True, say=lambda _: None)
    assert rows == read_rows(path) and all(row['device'] == 'cpu' for row in rows)
    rows = {row['family']: (row['outcome'], row['reason'][:40]) for row in rows}
    assert rows['lenet'] == rows['resnet'] == ('passed', '')
    assert rows['no_such_family'] == ('failed', 'ValueError: --family must be a folder of')


def test_a_process_that_cannot_import_ends_the_sweep(monkeypatch):
    monkeypatch.setattr(sweep, '_import', lambda codebase: None if os.getpid() == parent else os._exit(7))
    parent = os.getpid()
    with pytest.raises(RuntimeError, match='a process that imports mmpretrain ended with status 7'):
        run_sweep('mmpretrain', ['resnet'], say=lambda _: None)


def test_summary_and_table():
    rows = [Row('mmdet', 'ssd', 'mmdet::ssd/ssd300.py', 'passed', taps=dict(backbone='backbone.features'), before=3,
                after=4).to_dict(),
            Row('mmdet', 'timm', 'mmdet::timm/x.py', 'explained', 'ImportError: a | b <c>').to_dict()]
    assert summarize(rows) == '2 families: 1 passed, 1 explained, 0 failed'
    lines = render_table(rows).splitlines()
    assert lines[0] == '## mmdet'
    assert '| ssd | ssd300 | `backbone.features` | 3 / 4 / 0 | passed |' in lines
    assert '| timm | x |  |  | explained: ImportError: a \\| b &lt;c> |' in lines


def test_one_row_of_a_family_is_shown():
    rows = [Row('mmdet', name, f'mmdet::{name}/x.py', outcome, reason=reason, device=device).to_dict()
            for name, outcome, reason, device in (
                ('a', 'failed', 'slow', 'cpu'), ('a', 'passed', '', 'cuda'), ('b', 'passed', '', 'cuda'),
                ('b', 'passed', '', 'cpu'), ('c', 'failed', 'x', 'cuda'), ('c', 'explained', 'y', 'cpu'))]
    lines = render_table(rows).splitlines()
    assert '3 families: 2 passed, 1 explained, 0 failed.' in lines
    shown = [line.rpartition('|')[0].rpartition('|')[2].strip() for line in lines if line[:3] in ('| a', '| b', '| c')]
    assert shown == ['passed on cuda', 'passed', 'explained: y']


def test_the_document_has_the_rows(repo):
    """Written by the command that it names."""
    files = sorted((repo / 'docs' / 'conformance').glob('*.json'))
    rows = [row for path in files for row in read_rows(str(path))]
    text = (repo / 'docs' / 'conformance.md').read_text()
    assert rows and text.partition(MARK)[2].strip() == render_table(rows)
    assert all(row['outcome'] in OUTCOMES and bool(row['reason']) == (row['outcome'] != 'passed') for row in rows)


def test_a_document_without_the_mark_is_refused(tmp_path):
    path = tmp_path / 'x.md'
    path.write_text('text')
    with pytest.raises(ValueError, match='x.md must have the line'):
        write_table(str(path), 'table')
    path.write_text(f'text\n{MARK}\nold')
    write_table(str(path), 'table')
    assert path.read_text() == f'text\n{MARK}\n\ntable\n'


RESNET = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'


def test_a_small_family_passes():
    row = try_config('mmpretrain', 'resnet', RESNET)
    assert (row.outcome, row.reason) == ('passed', '')
    assert row.taps == dict(backbone='backbone.layer2') and row.prediction.startswith('equal')
    assert row.before and row.after and not row.between


def test_a_wrong_step_fails(monkeypatch):
    monkeypatch.setattr('mmafan.models.step.weight_losses', lambda losses, weight, prefix='': {
        prefix + key: (0.5 if prefix else 1.0) * value for key, value in losses.items()})
    row = try_config('mmpretrain', 'resnet', RESNET)
    assert row.outcome == 'failed' and 'is 1.500 times that of the stock model, right is 2.000' in row.reason


def fail_in(monkeypatch, error, only_stock=False):
    """Let the stock backbone raise."""
    from mmpretrain.models import ResNet_CIFAR
    original = ResNet_CIFAR.forward
    calls = []

    def forward(self, x):
        calls.append(1)
        if only_stock and len(calls) > 3:
            return original(self, x)
        raise error

    monkeypatch.setattr(ResNet_CIFAR, 'forward', forward)


def test_an_explanation_is_an_error_that_both_have(monkeypatch):
    fail_in(monkeypatch, NotImplementedError('this operation is for CUDA alone'))
    row = try_config('mmpretrain', 'resnet', RESNET)
    assert row.outcome == 'explained'
    assert row.reason == 'the stock model fails alike: NotImplementedError: this operation is for CUDA alone'


def test_a_family_is_tried_until_a_stock_model_trains(monkeypatch):
    tried = []

    def try_one(codebase, family, config, device):
        tried.append(config)
        return Row(codebase, family, config, model_trains=config in good)

    monkeypatch.setattr(trial, 'try_config', try_one)
    monkeypatch.setattr(trial, 'training_configs', lambda codebase, family: iter('abcdefghij'))
    for good, row, count in (('c', 'c', 3), ('a', 'a', 1), ('', 'a', 8)):
        tried.clear()
        assert try_family('mmdet', 'x').config == row and len(tried) == count
    monkeypatch.setattr(trial, 'training_configs', lambda codebase, family: iter(()))
    assert try_family('mmdet', 'x').to_dict() == Row('mmdet', 'x', outcome='explained',
                                                     reason='no config of it has a model').to_dict()


def test_the_state_has_to_have_every_weight():
    small, large = torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2)
    arms.take_weights(small, large)
    assert torch.equal(small.weight, large.weight)
    with pytest.raises(RuntimeError, match='the state of the A-FAN model lacks bias'):
        arms.take_weights(large, small)
    for model in (large, other := torch.nn.Linear(2, 2)):
        object.__setattr__(model, 'teacher', torch.nn.Linear(2, 2))
    arms.take_weights(other, large)
    assert torch.equal(other.teacher.weight, large.teacher.weight) and other.teacher is not large.teacher


def test_an_error_of_the_batch_explains_nothing(monkeypatch):
    fail_in(monkeypatch, KeyError('gt_boxes'))
    row = try_config('mmpretrain', 'resnet', RESNET)
    assert row.outcome == 'failed' and 'does not train a step on random images' in row.reason


def test_an_error_that_only_the_stock_model_has_explains_nothing(monkeypatch):
    error = NotImplementedError('this operation is for CUDA alone')
    monkeypatch.setattr(arms, 'make_batch', lambda *_: {})
    made = []

    def build(cfg, fields):
        made.append(fields['type'])
        raise error if len(made) == 1 else TypeError('another')

    monkeypatch.setattr(arms, 'build_model', build)
    monkeypatch.setattr(arms, '_side', lambda batch: 64)
    row = try_config('mmpretrain', 'resnet', RESNET)
    assert row.outcome == 'failed' and 'but its A-FAN version by TypeError: another' in row.reason
    assert made == ['ImageClassifier', 'mmafan.AFANImageClassifier']


def test_predictions_that_differ_fail(monkeypatch):
    from mmpretrain.models import ImageClassifier
    predict = ImageClassifier.predict

    def spoiled(self, *args, **kwargs):
        samples = predict(self, *args, **kwargs)
        for sample in samples if hasattr(self, 'afan') else []:
            sample.pred_score[0] += 1
        return samples

    monkeypatch.setattr(ImageClassifier, 'predict', spoiled)
    row = try_config('mmpretrain', 'resnet', RESNET)
    assert row.outcome == 'failed' and 'predictions differ' in row.reason


def test_stirred_weights_and_momentum_networks_move():
    from mmengine.model import ExponentialMovingAverage
    net = torch.nn.Sequential(torch.nn.Linear(4, 4))
    net.add_module('slow', ExponentialMovingAverage(net[0]))
    arms.stir(net)
    assert int(net.slow.steps) == 1 and not torch.equal(net.slow.module.weight, net[0].weight)
    assert 0.2 < float(net[0].weight.detach().std()) < 0.8
