"""train.py and test.py: what they change in a config, how they fail, and (slow) real runs of them."""
from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config

pytest.importorskip('mmpretrain', reason='the configs of the demo are for mmpretrain')


def apply(tools, config, *arguments):
    train = tools('train')
    args = train.parse_args(['configs/some/name.py', *arguments])
    train.apply_args(config, args)
    return config


def small_config(**fields):
    return Config(dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)), **fields))


def refused(capsys, function, *args):
    with pytest.raises(SystemExit) as error:
        function(*args)
    assert error.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_work_dir_is_named_after_the_config(tools):
    assert apply(tools, small_config()).work_dir == './work_dirs/name'
    assert apply(tools, small_config(work_dir='mine')).work_dir == 'mine'
    assert apply(tools, small_config(work_dir='mine'), '--work-dir', 'other').work_dir == 'other'


def test_resume(tools, tmp_path):
    cfg = apply(tools, small_config(load_from='x.pth'), '--resume')
    assert (cfg.resume, cfg.load_from) == (True, 'x.pth')  # where it begins if there is nothing to resume
    checkpoint = tmp_path / 'a.pth'
    checkpoint.write_text('')
    cfg = apply(tools, small_config(), '--resume', str(checkpoint))
    assert (cfg.resume, cfg.load_from) == (True, str(checkpoint))
    assert 'resume' not in apply(tools, small_config())


def test_amp_asks_for_a_dynamic_loss_scale(tools):
    cfg = apply(tools, small_config(), '--amp')
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.loss_scale == 'dynamic'


def test_amp_with_another_wrapper_is_refused(tools, capsys):
    cfg = Config(dict(optim_wrapper=dict(type='ApexOptimWrapper')))
    assert "'ApexOptimWrapper'" in refused(capsys, apply, tools, cfg, '--amp')


def test_auto_scale_lr(tools, capsys):
    cfg = apply(tools, small_config(auto_scale_lr=dict(base_batch_size=64)), '--auto-scale-lr')
    assert cfg.auto_scale_lr.enable
    assert 'base_batch_size' in refused(capsys, apply, tools, small_config(), '--auto-scale-lr')


def test_several_processes_train_in_two_phases(tools):
    model = dict(type='mmafan.AFANImageClassifier', afan=dict(taps=dict()))
    cfg = apply(tools, small_config(model=model, find_unused_parameters=True), '--launcher', 'pytorch')
    assert cfg.model_wrapper_cfg == dict(
        type='mmafan.AFANDistributedDataParallel', broadcast_buffers=False, find_unused_parameters=True)


def test_options_without_a_type_are_kept(tools):
    cfg = apply(tools, small_config(model=dict(afan=dict()), model_wrapper_cfg=dict(static_graph=True)),
                '--launcher', 'pytorch')
    assert cfg.model_wrapper_cfg == dict(type='mmafan.AFANDistributedDataParallel', static_graph=True)


@pytest.mark.parametrize('arguments, fields', [
    ((), {}),
    (('--launcher', 'pytorch'), dict(model=dict(type='ImageClassifier'))),
    (('--launcher', 'pytorch'), dict(model=dict(afan=dict(schedule='single_graph')))),
    (('--launcher', 'pytorch'), dict(runner_type='FlexibleRunner')),
    (('--launcher', 'pytorch'), dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel'))),
])
def test_another_wrapper_is_left_alone(tools, arguments, fields):
    given = dict(dict(model=dict(type='mmafan.AFANImageClassifier', afan=dict())), **fields)
    cfg = apply(tools, small_config(**given), *arguments)
    assert cfg.get('model_wrapper_cfg') == fields.get('model_wrapper_cfg')


def test_seed_hook_is_added_once_and_on_top_of_the_others(tools):
    kinds = [hook['type'] for hook in apply(tools, small_config(custom_hooks=[dict(type='EMAHook')])).custom_hooks]
    assert kinds == ['EMAHook', 'mmafan.ResumableSeedHook']
    own = small_config(custom_hooks=[dict(type='ResumableSeedHook')])
    assert [hook['type'] for hook in apply(tools, own).custom_hooks] == ['ResumableSeedHook']
    assert 'custom_hooks' not in apply(tools, small_config(), '--no-resumable-seed')


def test_loaders_of_mmpretrain_are_completed(tools):
    cfg = apply(tools, small_config(default_scope='mmpretrain', train_dataloader=dict(num_workers=2, pin_memory=False),
                                    val_dataloader=dict(num_workers=0)))
    assert cfg.train_dataloader.to_dict() == dict(
        num_workers=2, pin_memory=False, persistent_workers=True, collate_fn=dict(type='default_collate'))
    assert cfg.val_dataloader.persistent_workers is False


def test_loaders_of_other_codebases_are_left_alone(tools):
    loader = dict(num_workers=2, persistent_workers=True)
    assert apply(tools, small_config(default_scope='mmdet', train_dataloader=loader)).train_dataloader == loader


def test_workers_cannot_persist_where_there_are_none(tools):
    cfg = small_config(default_scope='mmdet', train_dataloader=dict(num_workers=0, persistent_workers=True))
    assert apply(tools, cfg).train_dataloader.persistent_workers is False


@pytest.mark.parametrize('name', ['train', 'test'])
def test_missing_config_offers_close_names(tools, capsys, tmp_path, name):
    (tmp_path / 'resnet_afan.py').write_text('')
    checkpoint = tmp_path / 'w.pth'
    checkpoint.write_text('')
    arguments = [str(tmp_path / 'resnet_afn.py')] + ([str(checkpoint)] if name == 'test' else [])
    sentence = refused(capsys, tools(name).main, arguments)
    assert 'no config file' in sentence
    assert f'did you mean {tmp_path / "resnet_afan.py"}?' in sentence


def test_missing_folder_is_searched_below(tools, capsys, tmp_path):
    (tmp_path / 'configs' / 'mmpretrain').mkdir(parents=True)
    (tmp_path / 'configs' / 'mmpretrain' / 'resnet_afan.py').write_text('')
    sentence = refused(capsys, tools('train').main, [str(tmp_path / 'configs' / 'wrong' / 'resnet_afan.py')])
    assert str(tmp_path / 'configs' / 'mmpretrain' / 'resnet_afan.py') in sentence


def test_missing_checkpoint_offers_close_names(tools, capsys, tmp_path):
    (tmp_path / 'epoch_2.pth').write_text('')
    missing = str(tmp_path / 'epoch_1.pth')
    assert 'epoch_2.pth?' in refused(capsys, tools('test').main, ['c.py', missing])
    assert 'epoch_2.pth?' in refused(capsys, apply, tools, small_config(), '--resume', missing)


@pytest.mark.parametrize('scope, fields', [
    ('mmpretrain', dict(enable=True, show=True, wait_time=2, out_dir='d')),
    ('mmdet', dict(draw=True, show=True, wait_time=2, test_out_dir='d')),
    ('mmseg', dict(draw=True, show=True, wait_time=2)),
])
def test_visualization_fields_of_each_codebase(tools, scope, fields):
    tool = tools('test')
    cfg = Config(dict(default_scope=scope, default_hooks=dict(visualization=dict(type='V')),
                      visualizer=dict(type='W')))
    tool.use_visualization(cfg, tool.parse_args(['c.py', 'w.pth', '--show', '--show-dir', 'd']))
    assert cfg.default_hooks.visualization == dict(type='V', **fields)
    assert cfg.visualizer == (dict(type='W', save_dir='d') if scope == 'mmseg' else dict(type='W'))


def test_out_of_an_unknown_kind_is_refused(tools, capsys):
    tool = tools('test')
    cfg = Config(dict(default_scope='mmdet', test_evaluator=dict()))
    assert '.pkl' in refused(capsys, tool.check_out, cfg, tool.parse_args(['c.py', 'w.pth', '--out', 'o.txt']))


def test_folder_out_is_for_segmentation(tools):
    tool = tools('test')
    cfg = Config(dict(default_scope='mmseg', test_evaluator=dict(type='IoUMetric')))
    tool.check_out(cfg, tool.parse_args(['c.py', 'w.pth', '--out', 'maps']))
    assert cfg.test_evaluator == dict(type='IoUMetric', output_dir='maps', keep_results=True)


@pytest.mark.parametrize('scope, tta_model', [('mmpretrain', 'mmpretrain.AverageClsScoreTTA'),
                                              ('mmdet', 'DetTTAModel')])
def test_tta_flips_where_the_config_is_silent(tools, scope, tta_model):
    pipeline = [dict(type='Load'), dict(type='Pack')]
    cfg = Config(dict(default_scope=scope, model=dict(type='M'),
                      test_dataloader=dict(dataset=dict(type='Wrapper', dataset=dict(type='D', pipeline=pipeline)))))
    tools('test').use_tta(cfg)
    assert (cfg.model.type, cfg.model.module.type) == (tta_model, 'M')
    last = cfg.test_dataloader.dataset.dataset.pipeline[-1]
    assert last.type == 'TestTimeAug'
    assert last.transforms[1][0].type == 'Pack'


def test_tta_of_the_config_is_used(tools):
    cfg = Config(dict(default_scope='mmseg', model=dict(type='M'), tta_model=dict(type='T'),
                      tta_pipeline=[dict(type='P')], test_dataloader=dict(dataset=dict(type='D', pipeline=[]))))
    tools('test').use_tta(cfg)
    assert cfg.model == dict(type='T', module=dict(type='M'))
    assert cfg.test_dataloader.dataset.pipeline == [dict(type='P')]


def test_tta_of_segmentation_must_be_in_the_config(tools, capsys):
    cfg = Config(dict(default_scope='mmseg', model=dict(type='M'), test_dataloader=dict(dataset=dict(type='D'))))
    assert 'tta_model' in refused(capsys, tools('test').use_tta, cfg)


@pytest.mark.skipif(torch.cuda.is_available(), reason='about machines without CUDA')
def test_mixed_precision_on_the_cpu(tools):
    cpu = tools('cpu')
    cfg = small_config()
    cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    cpu.adapt_to_cpu(cfg)
    from mmengine.registry import OPTIM_WRAPPERS
    linear = torch.nn.Linear(2, 1)
    config = cfg.optim_wrapper.to_dict()
    config['optimizer'] = torch.optim.SGD(linear.parameters(), lr=0.1)
    wrapper = OPTIM_WRAPPERS.build(config)
    before = linear.weight.clone()
    with wrapper.optim_context(linear):
        loss = linear(torch.ones(3, 2)).sum()
    assert loss.dtype == torch.bfloat16
    wrapper.update_params(loss.float())
    torch.testing.assert_close(before - linear.weight, torch.full((1, 2), 0.3))
    wrapper.load_state_dict(wrapper.state_dict())


def test_other_precisions_on_the_cpu_are_refused(tools):
    with pytest.raises(ValueError, match="optim_wrapper.dtype must be 'bfloat16' or None on a CPU, got 'float16'"):
        tools('cpu').CPUAmpOptimWrapper(dtype='float16', optimizer=None)


# ---------------------------------------------------------------------- real runs
SHORT = ('--cfg-options', 'train_cfg.max_epochs=4', 'default_hooks.checkpoint.interval=1',
         'default_hooks.checkpoint.max_keep_ckpts=-1', 'train_dataloader.dataset.num_train_samples=40',
         'train_dataloader.batch_size=20')


# Small networks; several threads would only stand in the way of whatever else the machine does.
ONE_THREAD = dict(os.environ, OMP_NUM_THREADS='1')


def call(repo, *command, ok=True):
    result = subprocess.run([str(c) for c in command], cwd=str(repo), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            universal_newlines=True, env=ONE_THREAD)
    assert (result.returncode == 0) == ok, result.stdout[-3000:]
    return result.stdout


def weights(path):
    return torch.load(str(path), map_location='cpu', weights_only=False)['state_dict']


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.slow
@pytest.mark.parametrize('num_workers', [0, 2])
def test_killed_run_resumes_to_the_same_weights(repo, tmp_path, num_workers):
    arguments = ('randomness.seed=5', f'train_dataloader.num_workers={num_workers}')
    pytest.importorskip('sklearn', reason='the images are part of scikit-learn')
    train = [sys.executable, 'tools/train.py', 'configs/mmpretrain/resnet_afan_digits.py', '--work-dir']
    call(repo, *train, tmp_path / 'straight', *SHORT, *arguments)
    command = [*map(str, [*train, tmp_path / 'killed', *SHORT, *arguments])]
    with subprocess.Popen(command, cwd=str(repo), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True, env=ONE_THREAD) as process:
        for line in process.stdout:
            if 'Saving checkpoint at 3 epochs' in line:  # epoch 2 is whole, epoch 3 may be half written
                process.kill()
                break
    assert not (tmp_path / 'killed' / 'epoch_4.pth').exists()
    log = call(repo, *train, tmp_path / 'killed', '--resume', tmp_path / 'killed' / 'epoch_2.pth', *SHORT, *arguments)
    assert 'resumed epoch: 2' in log
    assert same(weights(tmp_path / 'straight' / 'epoch_4.pth'), weights(tmp_path / 'killed' / 'epoch_4.pth'))
    assert not same(weights(tmp_path / 'straight' / 'epoch_4.pth'), weights(tmp_path / 'straight' / 'epoch_2.pth'))


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='about machines without CUDA')
def test_two_processes_on_the_cpu(repo, tmp_path):
    pytest.importorskip('sklearn', reason='the images are part of scikit-learn')
    log = call(repo, 'env', f'PYTHON={sys.executable}', 'bash', 'tools/dist_train.sh',
               'configs/mmpretrain/resnet_afan_digits.py', 2, '--work-dir', tmp_path, *SHORT, 'randomness.seed=5')
    assert 'gloo' in log
    assert (tmp_path / 'epoch_4.pth').exists()
    metrics = tmp_path / 'metrics.json'
    call(repo, 'env', f'PYTHON={sys.executable}', 'bash', 'tools/dist_test.sh', 'configs/mmpretrain/resnet_digits.py',
         tmp_path / 'epoch_4.pth', 2, '--work-dir', tmp_path, '--out', metrics)
    assert 0 <= json.loads(metrics.read_text())['accuracy/top1'] <= 100
