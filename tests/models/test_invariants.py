"""What must always hold of a model (see docs/method.md): off is stock, the attack attacks and leaves no trace, ..."""
from __future__ import annotations

import copy
import random
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper

from mmafan.replay import PassKind, current_pass, replay

PREPROCESSOR = dict(type='ClsDataPreprocessor', num_classes=3)
DROPOUT = dict(backbone=dict(drop_path_rate=0.3))
FOUR = dict(module='backbone.layer1', step_size=0.1, step_unit='std', strengths=(0.25, 0.5, 0.75, 1.0),
            reinject=(False, False, True, True))


def taps(**fields):
    return dict(taps=dict(s={**FOUR, **fields}))


def as_data(batch):
    return dict(inputs=list(batch['inputs']), data_samples=batch['data_samples'])


def sgd(model, wrapper=OptimWrapper, lr=0.05, **kwargs):
    return wrapper(optimizer=torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9), **kwargs)


def train(model, batches, wrapper=None, seed=3):
    """Train some steps; return the logs."""
    wrapper = wrapper or sgd(model)
    model.train()
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    dtype = next(model.parameters()).dtype  # mmpretrain's preprocessor makes float32 of everything
    handle = model.data_preprocessor.register_forward_hook(lambda _, __, d: {**d, 'inputs': d['inputs'].to(dtype)})
    try:
        logs = [model.train_step(as_data(b), wrapper) for b in batches]
    finally:
        handle.remove()
    return [{k: float(v.detach()) for k, v in log.items()} for log in logs]


def traces(model):
    """Everything an attack could leave behind."""
    hooks = [(name, len(m._forward_hooks), len(m._forward_pre_hooks), 'forward' in m.__dict__, m.training,
              getattr(m, 'track_running_stats', None)) for name, m in model.named_modules()]
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    grads = [n for n, p in model.named_parameters() if p.grad is not None]
    return hooks, buffers, grads, torch.is_grad_enabled()


# ---------------------------------------------------------------- 1: off is stock
@pytest.mark.parametrize('how', ['weight', 'schedule', 'none'])
def test_off_is_the_stock_model_bit_for_bit(how, tiny_classifier, tiny_batch):
    batches = [tiny_batch(seed=s) for s in range(3)]
    stock = tiny_classifier('ImageClassifier', None, **DROPOUT)
    expected = train(stock, batches)
    stream = torch.rand(3), np.random.rand(3), random.random()

    afan = dict(taps=dict(s=None)) if how == 'none' else taps(weight=0.0 if how == 'weight' else 1.0)
    model = tiny_classifier(afan=dict(afan, clean_weight=0.5), **DROPOUT)
    if how == 'schedule':
        model.afan.controls.strength_scale = 0.0
    assert train(model, batches) == expected
    assert torch.equal(torch.rand(3), stream[0]) and np.array_equal(np.random.rand(3), stream[1])
    assert random.random() == stream[2]
    for (name, value), (_, other) in zip(model.state_dict().items(), stock.state_dict().items()):
        assert torch.equal(value, other), name


def test_on_differs_from_the_stock_model(tiny_classifier, tiny_batch):
    batches = [tiny_batch(seed=s) for s in range(2)]
    assert train(tiny_classifier(afan=taps()), batches) != train(tiny_classifier('ImageClassifier', None), batches)


@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
def test_the_random_stream_after_a_step_is_the_stock_models(schedule, tiny_classifier, tiny_batch):
    streams = []
    for model in (tiny_classifier('ImageClassifier', None, **DROPOUT),
                  tiny_classifier(afan=dict(taps(num_steps=2, radius=0.2, random_start=True, fraction=0.5),
                                            schedule=schedule), **DROPOUT)):
        train(model, [tiny_batch()])
        streams.append((torch.rand(4).tolist(), np.random.rand(4).tolist(), random.random()))
    assert streams[0] == streams[1]


# ---------------------------------------------------------------- 3: checkpoints and inference
@pytest.mark.parametrize('policy', ['shared', 'batch', 'frozen', 'separate'])
def test_checkpoints_go_both_ways_and_predictions_are_bit_equal(policy, tiny_classifier, tiny_batch):
    model = tiny_classifier(afan=dict(taps(), batch_norm=policy))
    train(model, [tiny_batch()])
    stock = tiny_classifier('ImageClassifier', None)
    assert list(model.state_dict()) == list(stock.state_dict())
    stock.load_state_dict(model.state_dict(), strict=True)
    back = tiny_classifier(afan=dict(taps(), batch_norm=policy))
    back.load_state_dict(stock.state_dict(), strict=True)
    batch = tiny_batch(seed=9)
    for net in (stock, model, back):
        net.eval()
    with torch.no_grad():
        for net in (model, back):
            assert torch.equal(net(batch['inputs'], mode='tensor'), stock(batch['inputs'], mode='tensor'))
            for left, right in zip(net(**copy.deepcopy(batch), mode='predict'),
                                   stock(**copy.deepcopy(batch), mode='predict')):
                assert torch.equal(left.pred_score, right.pred_score)


def test_loss_in_eval_mode_and_without_grad_is_stock(tiny_classifier, tiny_batch):
    model, batch = tiny_classifier(afan=taps()), tiny_batch()
    assert list(model.eval().loss(**batch)) == ['loss']
    with torch.no_grad():
        assert list(model.train().loss(**batch)) == ['loss']
    assert len(model.loss(**batch)) == 5


# ---------------------------------------------------------------- 4: the attack
def test_the_attack_raises_the_loss_more_than_random_signs(tiny_classifier, tiny_batch):
    """Averaged over batches; a flipped sign gives a loss below the clean one."""
    model = tiny_classifier(afan=taps(strengths=1.0, reinject=False))
    train(model, [tiny_batch(size=12)] * 3)
    gains = {'gradient': [], 'random_sign': []}
    for seed in range(8):
        batch = tiny_batch(size=12, seed=20 + seed)
        for direction, found in gains.items():
            probe = tiny_classifier(afan=dict(taps(strengths=1.0, reinject=False, direction=direction),
                                              batch_norm='batch'))
            probe.load_state_dict(model.state_dict())
            probe.afan.controls.iteration = seed
            losses = probe.train().loss(**batch)
            found.append(float(losses['adv_s_0.loss'].detach() - losses['clean_loss'].detach()))
    assert min(gains['gradient']) > 0
    assert np.mean(gains['gradient']) > 5 * abs(np.mean(gains['random_sign']))


def test_a_reinjected_feature_has_the_perturbed_statistics(tiny_classifier, tiny_batch, monkeypatch):
    """Seen from the tail: content of the clean feature, channel statistics of the perturbed one."""
    model, seen = tiny_classifier(afan=taps(strengths=1.0, reinject=True)), []
    model.backbone.layer2.register_forward_pre_hook(
        lambda _, args: seen.append((current_pass().kind, args[0].detach().clone())))
    train(model, [tiny_batch()])
    clean = next(f for kind, f in seen if kind is PassKind.CLEAN).double().numpy()
    mixed = next(f for kind, f in seen if kind is PassKind.ADVERSARIAL).double().numpy()
    gradient_free = (clean - clean.mean(1, keepdims=True)) / np.sqrt(clean.var(1, ddof=1, keepdims=True) + 1e-5)
    mu, sigma = mixed.mean(1, keepdims=True), mixed.std(1, ddof=1, keepdims=True)
    again = gradient_free / gradient_free.std(1, ddof=1, keepdims=True).clip(1e-12) * sigma + mu
    assert np.abs(mixed - clean).max() > 1e-3
    assert np.abs(again - mixed).max() < 1e-4 * np.abs(mixed).max()


@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
@pytest.mark.parametrize('fields', [{}, dict(num_steps=3, radius=0.3, random_start=True)], ids=['free', 'pgd'])
def test_the_attack_leaves_no_trace(schedule, fields, tiny_classifier, tiny_batch):
    """After a step whose update does nothing, all is as after a stock step."""
    stock = tiny_classifier('ImageClassifier', None)
    train(stock, [tiny_batch()], sgd(stock, lr=0.0))
    model = tiny_classifier(afan=dict(taps(**fields), schedule=schedule, batch_norm='batch'))
    train(model, [tiny_batch()], sgd(model, lr=0.0))
    (hooks, buffers, grads, grad_mode), (_, expected, no_grads, _) = traces(model), traces(stock)
    assert hooks == [(n, 0, 0, False, t, s) for n, _, _, _, t, s in traces(stock)[0]] and grad_mode
    assert grads == no_grads == []
    assert buffers.keys() == expected.keys()
    for name, value in buffers.items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
@pytest.mark.parametrize('kind', [PassKind.ATTACK, PassKind.ADVERSARIAL])
def test_an_exception_in_a_pass_leaves_no_trace(schedule, kind, tiny_classifier, tiny_batch):
    model = tiny_classifier(afan=dict(taps(num_steps=2), schedule=schedule, batch_norm='batch'))
    train(model, [tiny_batch()])
    before, state = traces(model), None

    def fail(module, args):
        if current_pass().kind is kind:
            raise KeyboardInterrupt('in the middle of a pass')

    handle = model.backbone.layer4.register_forward_pre_hook(fail)
    torch.manual_seed(1)
    with pytest.raises(KeyboardInterrupt):
        train(model, [tiny_batch()])
    handle.remove()
    after = traces(model)
    assert after[0] == before[0] and after[2] == before[2] and after[3]
    assert current_pass().kind is PassKind.CLEAN and not model.afan.inside
    state = model.state_dict()
    assert all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point())


def test_an_exception_leaves_no_gradient_of_a_learned_strength(tiny_classifier, tiny_batch):
    own = {name: dict(module=f'backbone.{name}', step_size=0.1) for name in ('layer1', 'layer3')}
    model = tiny_classifier(afan=dict(taps=own, learn_strengths=dict(lr=0.1)))
    model.afan.controls.hooked = True
    found = []

    def fail(*_):
        found.extend(factor.grad for factor in model.afan.learned.factors.values())
        raise KeyboardInterrupt('in the middle of the update')

    wrapper = sgd(model)
    wrapper.step = fail
    with pytest.raises(KeyboardInterrupt):
        train(model, [tiny_batch()], wrapper)
    assert all(gradient is not None for gradient in found)
    assert all(factor.grad is None for factor in model.afan.learned.factors.values())


def test_taking_the_prefix_for_granted_is_noticed(tiny_classifier, tiny_batch, monkeypatch):
    """A replay that replays nothing right (here: zeros) is refused before a weight changes."""
    original = replay.replayed_output
    monkeypatch.setattr(replay, 'replayed_output', lambda *args: original(*args) * 0)
    model = tiny_classifier(afan=taps(module='backbone.layer2.1.conv2'), backbone=dict(out_indices=(0, 3)),
                            neck=dict(), head=dict())
    with pytest.raises(ValueError, match='afan.replay must be False'):
        train(model, [tiny_batch()])


def test_the_prefix_really_does_not_run_again(tiny_classifier, tiny_batch):
    model, runs = tiny_classifier(afan=taps()), []
    for name in ('conv1', 'layer1.0.conv1', 'layer1.1.conv2', 'layer2.0.conv1'):
        conv = model.backbone.get_submodule(name)
        stock = conv._conv_forward
        conv._conv_forward = lambda *a, n=name, s=stock: (runs.append(n), s(*a))[1]
    train(model, [tiny_batch()])
    runs.clear()  # those of the first step, which proves the tap
    train(model, [tiny_batch()])
    assert {n: runs.count(n) for n in runs} == {'conv1': 1, 'layer1.0.conv1': 1, 'layer1.1.conv2': 1,
                                                'layer2.0.conv1': 5}


# ---------------------------------------------------------------- 5: batches, precision, accumulation
def test_accumulation_equals_one_large_batch(tiny_classifier, tiny_batch):
    """Norms frozen by norm_eval; step sizes are per sample, so the split does not matter."""
    whole, frozen = tiny_batch(size=8), dict(backbone=dict(norm_eval=True))
    halves = [dict(inputs=whole['inputs'][i:i + 4], data_samples=whole['data_samples'][i:i + 4]) for i in (0, 4)]
    large = tiny_classifier(afan=taps(), **frozen).double()
    small = tiny_classifier(afan=taps(), **frozen).double()
    for batch in (whole, *halves):
        batch['inputs'] = batch['inputs'].double()
    train(large, [whole])
    wrapper = sgd(small, accumulative_counts=2)
    wrapper.initialize_count_status(small, 0, 2)
    logs = train(small, halves, wrapper)
    assert len(logs) == 2 and wrapper._inner_count == 2
    for (name, left), right in zip(small.named_parameters(), large.parameters()):
        assert torch.allclose(left, right, rtol=0, atol=1e-12), name


class CPUAutocastWrapper(OptimWrapper):
    """What AmpOptimWrapper does, which mmengine refuses without an accelerator."""

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def test_bfloat16_autocast_keeps_the_perturbation(tiny_classifier, tiny_batch):
    """A perturbation of 1e-4 of the feature is below bfloat16's resolution (4e-3); the tail still gets it."""
    model, seen = tiny_classifier(afan=taps(step_size=1e-4, strengths=1.0, reinject=False)), []
    model.backbone.layer2.register_forward_pre_hook(
        lambda _, args: seen.append((current_pass().kind, args[0].detach().double())))
    train(model, [tiny_batch()], sgd(model, CPUAutocastWrapper))
    clean = next(f for kind, f in seen if kind is PassKind.CLEAN)
    adversarial = [f for kind, f in seen if kind is PassKind.ADVERSARIAL][-1]
    ratio = (adversarial - clean).square().mean().sqrt() / clean.std()
    assert 0.9e-4 < float(ratio) < 1.1e-4


# ---------------------------------------------------------------- 6: gradients that are not finite
def test_a_non_finite_gradient_skips_that_sample(tiny_classifier, tiny_batch):
    model, seen = tiny_classifier(afan=taps(strengths=1.0, reinject=False, num_steps=2)), []

    def spoil(module, args, output):
        if current_pass().kind is PassKind.ATTACK and output.requires_grad:
            poison = torch.ones_like(output)
            poison[1] = float('nan')
            output.register_hook(lambda g: g * poison)

    model.backbone.layer4.register_forward_hook(spoil)
    model.backbone.layer2.register_forward_pre_hook(
        lambda _, args: seen.append((current_pass().kind, args[0].detach().clone())))
    model.eval()  # batch statistics would carry the NaN to the other samples
    for module in model.modules():
        module.training = not isinstance(module, torch.nn.BatchNorm2d)
    torch.manual_seed(0)
    log = model.train_step(as_data(tiny_batch()), sgd(model))
    clean = next(f for kind, f in seen if kind is PassKind.CLEAN)
    adversarial = [f for kind, f in seen if kind is PassKind.ADVERSARIAL][-1]
    changed = (adversarial != clean).flatten(1).any(1)
    assert changed.tolist() == [True, False, True, True]
    meters = model.afan.meters
    assert meters.pop_skipped_shares() == {'s': 1 / 8} and not meters.num_samples  # of 4 samples in 2 steps
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert all(np.isfinite(float(v)) for v in log.values())


# ---------------------------------------------------------------- what users combine
COMBINATIONS = {
    'mixup': dict(data_preprocessor=PREPROCESSOR, train_cfg=dict(augments=dict(type='Mixup', alpha=0.8))),
    'cutmix': dict(data_preprocessor=PREPROCESSOR, train_cfg=dict(augments=dict(type='CutMix', alpha=1.0))),
    'label-smoothing': dict(head=dict(loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=3))),
    'multi-label': dict(head=dict(type='MultiLabelLinearClsHead',
                                  loss=dict(type='CrossEntropyLoss', use_sigmoid=True))),
    'accuracy': dict(head=dict(cal_acc=True)),
    'norm-eval': dict(backbone=dict(norm_eval=True)),
    'frozen-stem': dict(backbone=dict(frozen_stages=0)),
    'drop-path': dict(backbone=dict(drop_path_rate=0.5)),
    'multi-level': dict(backbone=dict(out_indices=(0, 1, 2, 3))),
}


@pytest.mark.parametrize('name', COMBINATIONS)
def test_the_schedules_agree_in_every_combination(name, tiny_classifier, tiny_batch):
    results = []
    for schedule in ('two_phase', 'single_graph'):
        afan = dict(taps(strengths=(0.5, 1.0), reinject=(False, True)), schedule=schedule)
        model = tiny_classifier(afan=afan, **COMBINATIONS[name]).double()
        batches = [tiny_batch(seed=s) for s in range(2)]
        for batch in batches:
            batch['inputs'] = batch['inputs'].double()
        logs = train(model, batches, sgd(model, clip_grad=dict(max_norm=1.0)))
        results.append((logs, {n: p.detach() for n, p in model.named_parameters()}))
    (logs, left), (others, right) = results
    for log, other in zip(logs, others):
        # mmpretrain's sigmoid cross entropy has float32 targets, which torch 2.1 computes its loss in.
        assert log == pytest.approx(other, rel=1e-6)
        assert log['loss'] == pytest.approx(sum(v for k, v in log.items() if 'loss' in k and k != 'loss'), rel=1e-6)
    for parameter in left:
        assert torch.allclose(left[parameter], right[parameter], rtol=0, atol=1e-10), parameter


def test_a_tap_at_the_inputs_is_pixel_pgd(tiny_classifier, tiny_batch):
    model, seen = tiny_classifier(afan=dict(taps(module='inputs', step_unit='absolute', step_size=0.1, radius=0.15,
                                                 num_steps=3, strengths=1.0, reinject=False, clamp=(-1.0, 1.0)),
                                            batch_norm='separate')), []
    model.backbone.register_forward_pre_hook(
        lambda _, args: seen.append((current_pass().kind, args[0].detach().clone())))
    batch = tiny_batch()
    batch['inputs'] = batch['inputs'].clamp(-1, 1)
    log = train(model, [batch])[0]
    clean, adversarial = seen[0][1], seen[-1][1]
    assert seen[-1][0] is PassKind.ADVERSARIAL and torch.equal(clean, batch['inputs'])
    change = (adversarial - clean).abs()
    assert float(change.max()) <= 0.15 + 1e-6 and float(adversarial.abs().max()) <= 1
    assert float(change.mean()) > 0.05 and log['adv_s_0.loss'] > 0


def test_learned_strengths_follow_the_authors_update(tiny_classifier, tiny_batch):
    """By hand: v <- m v + (dL/dw + l1 sign w), w <- w - lr v, then back to the plane sum w = 1."""
    spread = {n: dict(FOUR, module=f'backbone.layer{i}', strengths=1.0, reinject=False)
              for i, n in enumerate(('a', 'b'), start=1)}
    model = tiny_classifier(afan=dict(taps=spread, learn_strengths=dict(lr=0.5, momentum=0.9, l1=0.1)))
    model.afan.controls.hooked = True
    learned = model.afan.learned
    weights, momenta = np.array([0.5, 0.5]), np.zeros(2)
    for seed in range(2):
        train(model, [tiny_batch(seed=seed)])
        gradient = np.array([float(v.grad) for v in learned.factors.values()])
        assert np.abs(gradient).min() > 0
        momenta = 0.9 * momenta + gradient + 0.1 * np.sign(weights)
        weights = weights - 0.5 * momenta
        weights = weights - (weights.sum() - 1) / 2
        learned.step()
        assert np.allclose([float(v.detach()) for v in learned.factors.values()], weights, atol=1e-6)


def test_a_frozen_or_separate_policy_protects_the_clean_statistics(tiny_classifier, tiny_batch):
    """With a rate of 0 the running statistics of a step equal a stock step's, unless they are shared."""
    stock = tiny_classifier('ImageClassifier', None)
    train(stock, [tiny_batch()] * 2, sgd(stock, lr=0.0))
    for policy in ('shared', 'batch', 'frozen', 'separate'):
        model = tiny_classifier(afan=dict(taps(), batch_norm=policy))
        train(model, [tiny_batch()] * 2, sgd(model, lr=0.0))
        same = all(torch.equal(a, b) for a, b in zip(stock.state_dict().values(), model.state_dict().values()))
        assert same is (policy != 'shared'), policy


@pytest.mark.parametrize('policy', ['shared', 'batch', 'frozen', 'separate'])
def test_recomputed_passes_follow_the_policy(policy, tiny_classifier, tiny_batch):
    """Non-reentrant checkpointing of the tail recomputes in the backward; stock batch norm stores twice then."""
    from torch.utils.checkpoint import checkpoint

    def train_checkpointed(model):
        run = model.backbone.layer3.forward
        model.backbone.layer3.forward = lambda x: checkpoint(run, x, use_reentrant=False)
        train(model, [tiny_batch()], sgd(model, lr=0.0))
        return model.state_dict()

    stock = train_checkpointed(tiny_classifier('ImageClassifier', None))
    found = train_checkpointed(tiny_classifier(afan=dict(taps(), batch_norm=policy, schedule='two_phase')))
    assert all(torch.equal(value, stock[name]) for name, value in found.items()) is (policy != 'shared')
