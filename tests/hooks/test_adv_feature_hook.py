"""The hook in a real Runner: schedule, logs, learned strengths, checkpoints."""
from __future__ import annotations

import copy

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmafan import afan_model
from mmafan.engine import AFANDistributedDataParallel
from mmafan.hooks import AdvFeatureHook
from mmafan.hooks.adv_feature_hook import training_state
from mmafan.models.model import unwrap

from ..training import record_warnings

TAPS = dict(s=dict(module='conv1', step_size=0.1, strengths=(0.5, 1.0)))


class Images(Dataset):

    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return dict(inputs=torch.randn(3, 6, 6, generator=generator), data_samples=index % 2)


@afan_model
class Net(BaseModel):

    def __init__(self):
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv2, self.fc = nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        logits = self.fc(self.conv2(self.bn(self.conv1(inputs)).relu()).mean((2, 3)))
        return {'loss': nn.functional.cross_entropy(logits, data_samples)} if mode == 'loss' else logits


class Spy(Hook):
    priority = 'LOWEST'

    def __init__(self):
        self.scales, self.passes, self.logs = [], [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.scales.append(runner.model.afan.controls.strength_scale)
        self.passes.append(sum(name.startswith('adv_') for name in outputs))
        scalars = runner.message_hub.log_scalars
        self.logs.append({k: scalars[k].current() for k in scalars if 'afan' in k})


def make_runner(work_dir, hook=None, epochs=4, afan=None, by_epoch=True, resume=False, **kwargs):
    torch.manual_seed(0)
    spy = Spy()
    loop = dict(by_epoch=True, max_epochs=epochs) if by_epoch else dict(by_epoch=False, max_iters=4 * epochs)
    sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=False)
    runner = Runner(
        Net(afan=afan or dict(taps=TAPS)), str(work_dir), train_cfg=loop, experiment_name=f'run_{id(spy)}',
        train_dataloader=dict(batch_size=2, num_workers=0, sampler=sampler, dataset=Images(),
                              collate_fn=dict(type='default_collate')),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9)), resume=resume,
        custom_hooks=[hook or AdvFeatureHook(), spy], default_scope='mmengine', log_level='ERROR',
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=by_epoch)), **kwargs)
    return runner, spy


def test_begin_end_and_ramp_by_epoch(tmp_path):
    """Four iterations an epoch: off, ramp 0 to 1 over one epoch, full, off again."""
    runner, spy = make_runner(tmp_path, AdvFeatureHook(begin=1, end=3, ramp=1))
    runner.train()
    assert spy.scales == [0.0] * 4 + [0.0, 0.25, 0.5, 0.75] + [1.0] * 4 + [0.0] * 4
    assert spy.passes == [2 * (scale > 0) for scale in spy.scales]


def test_begin_end_and_ramp_by_iteration(tmp_path):
    runner, spy = make_runner(tmp_path, AdvFeatureHook(begin=3, end=9, ramp=2, by_epoch=False), 3, by_epoch=False)
    runner.train()
    assert spy.scales == [0.0] * 3 + [0.0, 0.5] + [1.0] * 4 + [0.0] * 3
    assert spy.passes == [2 * (scale > 0) for scale in spy.scales]


def test_a_schedule_without_options_works_in_an_iteration_based_loop(tmp_path):
    runner, spy = make_runner(tmp_path, by_epoch=False, epochs=1)
    runner.train()
    assert spy.passes == [2] * 4


def test_a_tap_that_sits_steps_out_is_no_failure(tmp_path):
    """Two samples a batch and an eighth of them: at least two take part (batch norm trains), in every eighth step."""
    runner, spy = make_runner(tmp_path, afan=dict(taps=dict(s=dict(TAPS['s'], fraction=0.125))))
    runner.train()
    assert spy.passes == ([0] * 7 + [2]) * 2


def test_epochs_in_an_iteration_based_loop_are_refused(tmp_path):
    runner, _ = make_runner(tmp_path, AdvFeatureHook(begin=1), by_epoch=False)
    with pytest.raises(ValueError, match='by_epoch must be False with IterBasedTrainLoop'):
        runner.train()
    assert runner.iter == 0


def test_outside_of_the_schedule_training_is_stock(tmp_path):
    """Through the hook: the first two epochs with ``begin=2`` equal those without A-FAN bit for bit, the third not."""
    off = dict(taps=dict(s=dict(TAPS['s'], weight=0.0)))
    for name, options in dict(late=dict(hook=AdvFeatureHook(begin=2)), stock=dict(afan=off)).items():
        make_runner(tmp_path / name, epochs=3, **options)[0].train()
    for epoch, equal in ((2, True), (3, False)):
        late, stock = [torch.load(tmp_path / name / f'epoch_{epoch}.pth', weights_only=False)['state_dict']
                       for name in ('late', 'stock')]
        assert all(torch.equal(late[n], stock[n]) for n in late) is equal


def test_measurements_are_logged_at_the_interval_without_the_word_loss(tmp_path):
    runner, spy = make_runner(tmp_path, AdvFeatureHook(interval=3), 1)
    runner.train()
    assert set(spy.logs[0]) == {'train/afan_s_relative_size', 'train/afan_s_skipped_share', 'train/afan_strength_scale',
                                'train/afan_s_adversarial_to_clean'}
    assert spy.logs[0]['train/afan_s_skipped_share'] == 0 and spy.logs[0]['train/afan_s_relative_size'] > 0
    sizes = [log['train/afan_s_relative_size'] for log in spy.logs]
    assert sizes[0] == sizes[1] != sizes[2]  # measured at the first and the third iteration
    assert not any('loss' in name for name in spy.logs[0])


def test_a_step_that_goes_around_the_model_is_noticed(tmp_path):
    runner, _ = make_runner(tmp_path)
    runner.model.train_step = lambda data, optim_wrapper: dict(loss=torch.zeros(()))
    with pytest.raises(RuntimeError, match='no adversarial pass ran'):
        runner.train()


@pytest.mark.parametrize('scale', [1.0, 1024.0])
@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
def test_learned_strengths_do_not_depend_on_the_loss_scale(tmp_path, schedule, scale):
    """A wrapper with a loss scaler, as mixed precision has it: the factors are those of plain training."""
    taps = dict(a=dict(TAPS['s']), b=dict(TAPS['s'], module='conv2'))
    afan = dict(taps=taps, schedule=schedule, learn_strengths=dict(lr=0.1))
    plain, _ = make_runner(tmp_path / 'plain', afan=copy.deepcopy(afan), epochs=1)
    plain.train()
    runner, _ = make_runner(tmp_path / 'scaled', afan=afan, epochs=1)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    wrapper = runner.optim_wrapper
    scaler = type('Scaler', (), dict(get_scale=lambda self: scale))()
    wrapper.loss_scaler = scaler

    def backward(loss, **kwargs):
        (loss * scale).backward(**kwargs)
        wrapper._inner_count += 1

    update = wrapper.step

    def step(**kwargs):
        for group in wrapper.optimizer.param_groups:
            for parameter in group['params']:
                if parameter.grad is not None:
                    parameter.grad /= scale
        update(**kwargs)

    wrapper.backward, wrapper.step = backward, step
    runner.train()
    expected = {n: float(v.detach()) for n, v in plain.model.afan.learned.factors.items()}
    found = {n: float(v.detach()) for n, v in runner.model.afan.learned.factors.items()}
    assert found == pytest.approx(expected, rel=1e-4) and abs(found['a'] - 0.5) > 1e-3


@pytest.mark.parametrize('policy', ['separate', 'batch'])
def test_training_only_state_survives_a_resume(tmp_path, policy):
    taps = dict(a=dict(TAPS['s']), b=dict(TAPS['s'], module='conv2'))
    afan = dict(taps=taps, learn_strengths=dict(lr=0.1), batch_norm=policy)
    whole, _ = make_runner(tmp_path / 'whole', afan=copy.deepcopy(afan), epochs=3)
    whole.train()
    first, _ = make_runner(tmp_path / 'parts', afan=copy.deepcopy(afan), epochs=2)
    first.train()
    second, _ = make_runner(tmp_path / 'parts', afan=copy.deepcopy(afan), epochs=3, resume=True)
    assert training_state(second.model)['learned'] != training_state(first.model)['learned']
    second.train()
    left, right = training_state(second.model), training_state(whole.model)
    assert left['learned'] == right['learned'] and ('norms' in left) is (policy == 'separate')
    for name, value in left.get('norms', {}).items():
        assert torch.equal(value, right['norms'][name]), name
    for name, value in second.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[name]), name


@pytest.mark.parametrize('value', [True, dict(backend='eager')])
def test_compile_is_refused_before_the_first_step(tmp_path, value):
    runner, _ = make_runner(tmp_path, cfg=dict(compile=value))
    with pytest.raises(ValueError, match='compile must be False with A-FAN, got '):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize('wrapped', [False, True])
def test_compile_is_refused_without_the_hook(tmp_path, group, wrapped):
    runner, _ = make_runner(tmp_path, hook=Spy(), cfg=dict(compile=dict(backend='eager')))
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    if wrapped:
        runner.model = AFANDistributedDataParallel(runner.model, device_ids=None)
    with pytest.raises(ValueError, match='compile must be False with A-FAN, got True: '):
        runner.train()
    assert runner.iter == 0
    assert all(torch.equal(value, before[name]) for name, value in unwrap(runner.model).state_dict().items())


class CleanLosses(Hook):

    def __init__(self):
        self.values = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.values.append(float(outputs['clean_loss' if 'clean_loss' in outputs else 'loss']))


def test_strengths_follow_how_well_the_training_set_is_fitted(tmp_path):
    """The mean looks back on an epoch of four iterations; each iteration has the factor of those before it."""
    seen = CleanLosses()
    afan = dict(taps=TAPS, clean_weight=0.5)
    runner, spy = make_runner(tmp_path, AdvFeatureHook(fit_threshold=0.99, begin=1), afan=afan)
    runner.register_hook(seen)
    runner.train()
    mean = highest = 0.0
    for k, (loss, scale) in enumerate(zip(seen.values, spy.scales)):
        factor = min(max(0, 1 - mean / (0.99 * highest)), 1) if highest else 0
        assert scale == pytest.approx(factor if k >= 4 else 0, abs=1e-6)
        loss /= 0.5 if scale > 0 else 1  # weighted in the log
        mean += (loss - mean) / min(k + 1, 4)
        highest = max(highest, mean)
    assert 0 < spy.scales[-1] < 1


def test_the_fit_survives_a_resume(tmp_path):
    runner, whole = make_runner(tmp_path / 'whole', AdvFeatureHook(fit_threshold=1.0))
    runner.train()
    first, _ = make_runner(tmp_path / 'parts', AdvFeatureHook(fit_threshold=1.0), epochs=2)
    first.train()
    second, spy = make_runner(tmp_path / 'parts', AdvFeatureHook(fit_threshold=1.0), resume=True)
    second.train()
    assert spy.scales == whole.scales[8:] and max(spy.scales) > 0
    for one, other in zip(runner.model.parameters(), second.model.parameters()):
        assert torch.equal(one, other)


def test_weights_alone_begin_with_fresh_strengths_and_norms(tmp_path):
    """Learned strengths at their start, auxiliary norms as copies of the norms that have been loaded."""
    afan = dict(taps=dict(a=dict(TAPS['s']), b=dict(TAPS['s'], module='conv2')), learn_strengths=dict(lr=0.1),
                batch_norm='separate')
    first, _ = make_runner(tmp_path / 'first', afan=copy.deepcopy(afan), epochs=1)
    start = training_state(first.model)['learned']
    first.train()
    assert training_state(first.model)['learned'] != start
    states = []

    class Look(Hook):

        def before_train(self, runner):
            states.append(copy.deepcopy((training_state(runner.model), runner.model.bn.state_dict())))

    second, _ = make_runner(tmp_path / 'second', afan=copy.deepcopy(afan), epochs=1,
                            load_from=str(tmp_path / 'first' / 'epoch_1.pth'))
    second.register_hook(Look(), 'LOWEST')
    second.train()
    (state, norm), = states
    assert state['learned'] == start
    assert norm['running_mean'].abs().sum() > 0
    assert state['norms']
    for name, value in state['norms'].items():
        assert torch.equal(value, norm[name.rpartition('.')[2]]), name


def test_weights_alone_begin_a_new_fit(tmp_path):
    """What a pre-training has seen as its highest loss says nothing about a training that loads its weights."""
    first, _ = make_runner(tmp_path / 'first', AdvFeatureHook(fit_threshold=1.0))
    first.train()
    second, spy = make_runner(tmp_path / 'second', AdvFeatureHook(fit_threshold=1.0), epochs=1,
                              load_from=str(tmp_path / 'first' / 'epoch_4.pth'))
    second.train()
    assert spy.scales[0] == 0


def test_a_checkpoint_without_the_fit_is_told(tmp_path):
    first, _ = make_runner(tmp_path, epochs=1)
    first.train()
    second, spy = make_runner(tmp_path, AdvFeatureHook(fit_threshold=0.3), epochs=2, resume=True)
    with record_warnings() as found:
        second.train()
    assert spy.scales[0] == 0
    assert any('with AdvFeatureHook.fit_threshold=0.3 A-FAN is off until' in text for text in found)


def test_a_model_that_logs_no_loss_has_no_fit(tmp_path):
    runner, _ = make_runner(tmp_path, AdvFeatureHook(fit_threshold=0.3))
    stock = runner.model.train_step
    runner.model.train_step = lambda *args, **kwargs: {'norm': stock(*args, **kwargs)['loss']}
    with pytest.raises(ValueError, match=r"fit_threshold must be None where train_step logs no loss, got 0.3: the "
                                         r"model logs \['norm'\]"):
        runner.train()


def test_the_ratio_of_the_losses_is_logged(tmp_path):
    runner, spy = make_runner(tmp_path, AdvFeatureHook(interval=2), epochs=1)
    runner.train()
    assert spy.logs[-1]['train/afan_s_adversarial_to_clean'] > 1
