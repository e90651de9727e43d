"""``mmafan doctor``: what it says of an environment, of a config, and of a step of it."""
from __future__ import annotations

import pytest
from mmengine.config import Config

from mmafan.cli import environment
from mmafan.cli.doctor_command import report
from mmafan.cli.dry_run import check_config
from mmafan.cli.environment import Finding, check_package
from mmafan.cli.main import main

AFAN = dict(taps=dict(s=dict(module='backbone.layer1', step_size=0.1)))


def config(model=None, **fields):
    given = dict(model=dict(type='mmafan.AFANImageClassifier', afan=AFAN), train_cfg=dict(max_epochs=10),
                 custom_imports=dict(imports=['mmafan']), custom_hooks=[dict(type='mmafan.AdvFeatureHook')])
    given.update(fields)
    if model is not None:
        given['model'] = model
    return Config(given)


def levels(cfg):
    return [(finding.level, finding.text) for finding in check_config(cfg)]


def test_fine_config_has_no_finding():
    assert levels(config()) == []


@pytest.mark.parametrize('cfg, level, part', [
    (dict(model=dict(type='ImageClassifier')), 'problem', 'trains without A-FAN'),
    (dict(model=dict(type='mmafan.AFANImageClassifier', afan=dict(taps=dict()))), 'problem', 'afan.taps must be'),
    (dict(custom_imports=dict(imports='json')), 'note', 'custom_imports lacks mmafan'),
    (dict(custom_hooks=[]), 'note', 'no AdvFeatureHook'),
    (dict(custom_hooks=[dict(type='mmafan.AdvFeatureHook', begin=10)]), 'problem', 'never starts'),
    (dict(model=dict(type='AFANX', afan=dict(taps=dict(s=dict(module='a', step_size=0.0))))), 'note', 'unperturbed'),
    (dict(model=dict(type='AFANX', afan=dict(taps=dict(s=dict(module='a', step_size=1.0, direction='random_sign'))))),
     'note', 'noise'),
    (dict(model=dict(type='AFANX', afan=dict(taps=dict(s=dict(module='a', step_size=1.0, weight=0.0))))), 'problem',
     'every tap is off'),
])
def test_what_would_silently_disable_it_is_told(cfg, level, part):
    found = levels(config(**cfg))
    assert any(given == level and part in text for given, text in found), found


def test_missing_double_and_broken_packages(monkeypatch):
    assert check_package('nosuchmodule', ('nosuch', ), (1, ), (2, )).level == 'note'
    monkeypatch.setattr(environment, 'installed', lambda names: [(name, '1.0') for name in names])
    found = check_package('mmengine', ('mmengine', 'onedl-mmengine'), (0, 10, 4), (1, ))
    assert found.level == 'problem' and 'overwrite each other' in found.text and 'pip uninstall' in found.remedy

    def broken(name):
        raise ModuleNotFoundError("No module named 'mmcv._ext'", name='mmcv._ext')

    monkeypatch.setattr(environment, 'import_module', broken)
    found = check_package('mmdet', ('mmdet', ), (3, 3), (4, ))
    assert found.level == 'problem' and 'compile mmcv' in found.remedy


def test_report_has_a_remedy_below_each_problem():
    text = report([Finding('ok', 'fine'), Finding('problem', 'bad', 'do this')])
    assert text.splitlines() == ['  ok   fine', 'WRONG  bad', '         -> do this']


def run(capsys, *argv):
    try:
        main(list(map(str, argv)))
    except SystemExit as error:
        return error.code, capsys.readouterr().out
    return 0, capsys.readouterr().out


def test_environment_of_the_tests_is_fine(capsys):
    code, out = run(capsys, 'doctor')
    assert 'mmengine 0.' in out and 'torch ' in out
    assert code == (1 if 'WRONG' in out else 0)


def test_step_of_a_config(capsys, repo, tmp_path):
    pytest.importorskip('mmpretrain.models', reason='the config is one of mmpretrain')
    base = repo / 'configs' / 'mmpretrain' / 'resnet_afan_digits.py'
    code, out = run(capsys, 'doctor', base)
    assert 'tap stage1 at backbone.layer1: the gradient arrives, 2 adversarial loss terms, 2 passes' in out
    assert 'theory: a step costs' in out
    child = tmp_path / 'child.py'
    child.write_text(f"_base_ = {str(base)!r}\n"
                     "model = dict(afan=dict(taps=dict(stage1=dict(module='backbone.lay1'))))\n")
    code, out = run(capsys, 'doctor', child)
    assert code == 1 and "did you mean 'backbone.layer1'" in out
    child.write_text(f"_base_ = {str(base)!r}\nmodel = dict(backbone=dict(frozen_stages=1))\n")
    code, out = run(capsys, 'doctor', child)
    assert code == 1 and 'afan.taps.stage1.module' in out


def test_proof_of_a_config(capsys, repo, tmp_path, monkeypatch):
    pytest.importorskip('mmpretrain.models', reason='the config is one of mmpretrain')
    base = repo / 'configs' / 'mmpretrain' / 'resnet_afan_digits.py'
    code, out = run(capsys, 'doctor', base, '--prove')
    assert 'proven on cpu: gradients of' in out and 'to the last digit' in out
    assert code == (1 if 'WRONG' in out else 0)
    monkeypatch.setattr('mmafan.models.step.weight_losses', lambda losses, weight, prefix='': {
        prefix + key: (1.5 if prefix else 1.0) * value for key, value in losses.items()})
    code, out = run(capsys, 'doctor', base, '--prove')
    assert code == 1 and 'A-FAN is wrong on this model: two_phase, step 1: the gradient of ' in out
    assert 'is 2.500 times that of the stock model, right is 2.000' in out


def test_proof_needs_a_config(capsys):
    with pytest.raises(SystemExit):
        main(['doctor', '--prove'])
    assert '--prove needs a config' in capsys.readouterr().err
