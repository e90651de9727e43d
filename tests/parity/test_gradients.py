"""Two-phase, single-graph and the naive reference give the same gradients, in float64, to 1e-10."""
from __future__ import annotations

import copy
import functools

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope

from mmafan.models.attack import Suffix

from .reference import naive_step

pytest.importorskip('mmpretrain', reason='mmpretrain is not installed')
from mmpretrain.models import ImageClassifier  # noqa: E402
from mmpretrain.structures import DataSample  # noqa: E402

RESNET18 = dict(
    backbone=dict(type='ResNet', depth=18, out_indices=(3, ), style='pytorch'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=512, loss=dict(type='CrossEntropyLoss')))
SMALL = copy.deepcopy(RESNET18)
SMALL['backbone'].update(base_channels=4, stem_channels=4)
SMALL['head'].update(in_channels=32)
EFFICIENTNET = dict(
    backbone=dict(type='EfficientNet', arch='b0', drop_path_rate=0.3),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=1280, loss=dict(type='CrossEntropyLoss')))
MODELS_AND_TAPS = [
    pytest.param(RESNET18, 'backbone.layer1', (), id='resnet18-layer1'),
    pytest.param(RESNET18, 'backbone.layer3.0.conv2',
                 ('backbone.conv1', 'backbone.bn1', 'backbone.layer1', 'backbone.layer2', 'backbone.layer3.0.conv1',
                  'backbone.layer3.0.bn1'), id='resnet18-inside-a-block'),
    pytest.param(RESNET18, 'backbone.bn1', (), id='resnet18-before-inplace-relu'),
    pytest.param(EFFICIENTNET, 'backbone.layers.3', (), id='efficientnet-b0-layers.3'),
]
RECIPES = [
    pytest.param(dict(strengths=(0.25, 0.5, 1.0), reinject=(False, True, True), weight=(0.3, 0.2, 0.5)),
                 id='strengths'),
    pytest.param(dict(strengths=(1.0, ), reinject=False, weight=0.7, num_steps=3, radius=0.02), id='pgd3-linf'),
    pytest.param(dict(strengths=(0.5, 1.0), reinject=True, weight=1.0, num_steps=2, radius=0.8, norm='l2',
                      step_size=0.6), id='pgd2-l2'),
]


def build(config, tap, schedule, recipe, **afan):
    init_default_scope('mmpretrain')
    torch.manual_seed(1)
    taps = dict(t=dict(dict(module=tap, step_size=0.01), **recipe))
    model = MODELS.build(dict(
        type='mmafan.AFANImageClassifier', **copy.deepcopy(config),
        afan=dict(dict(taps=taps, clean_weight=0.8, schedule=schedule, batch_norm='shared'), **afan)))
    model.train()
    return model.double()


def make_batch(count=4, size=32):
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64)
    return dict(inputs=inputs, data_samples=[DataSample().set_gt_label(i % 10) for i in range(count)])


def gradients_of(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def step_gradients(model, data, seed=0):
    """Gradients of one real train_step (without its update)."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = OptimWrapper(optimizer)
    kept = {}
    optimizer.step = lambda: kept.update(gradients_of(model))
    model.data_preprocessor.forward = lambda d, training=False: d
    torch.manual_seed(seed)
    log = model.train_step(data, wrapper)
    return kept, {k: float(v) for k, v in log.items()}


def assert_same(left, right, tolerance=1e-10):
    assert left.keys() == right.keys() and left
    scale = max(float(g.abs().max()) for g in right.values())
    for name in right:
        assert torch.allclose(left[name], right[name], rtol=0, atol=tolerance * max(1.0, scale)), name


@pytest.mark.parametrize('config, tap, head', MODELS_AND_TAPS)
@pytest.mark.parametrize('recipe', RECIPES)
def test_both_schedules_equal_the_naive_reference(config, tap, head, recipe):
    data = make_batch()
    reference = build(config, tap, 'two_phase', recipe)
    reference.stock_loss = functools.partial(ImageClassifier.loss, reference)
    strengths = recipe['strengths']
    spread = lambda v: tuple(v) if isinstance(v, tuple) else (v, ) * len(strengths)  # noqa: E731
    total, terms = naive_step(
        reference, data, tap, step_size=recipe.get('step_size', 0.01), strengths=strengths,
        reinject=spread(recipe['reinject']), weights=spread(recipe['weight']), clean_weight=0.8,
        num_steps=recipe.get('num_steps', 1), radius=recipe.get('radius'), norm=recipe.get('norm', 'linf'), head=head)
    expected = gradients_of(reference)
    for schedule in ('two_phase', 'single_graph'):
        found, log = step_gradients(build(config, tap, schedule, recipe), data)
        assert_same(found, expected)
        assert log['loss'] == pytest.approx(total, abs=1e-9)
        weights = spread(recipe['weight'])
        for k, term in enumerate(terms):
            assert log[f'adv_t_{k}.loss'] == pytest.approx(weights[k] * term, abs=1e-9)


@pytest.mark.parametrize('choices', [(0, 3, 2, 1), (2, 0, 0, 0), (0, 1, 1, 0), (3, 2, 2, 3)], ids=str)
@pytest.mark.parametrize('moments', ['channel', 'batch'])
@pytest.mark.parametrize('num_steps', [1, 2])
def test_drawn_strengths_equal_the_naive_reference(choices, moments, num_steps, monkeypatch):
    """Each sample has its own strength, and is re-injected where that strength is: some, none or all of them."""
    tap, strengths, reinject = 'backbone.layer1', (0.25, 0.5, 0.75, 1.0), (False, False, True, True)
    recipe = dict(strengths=strengths, reinject=reinject, strength_sampling='random', weight=0.7, moments=moments,
                  num_steps=num_steps)
    monkeypatch.setattr('mmafan.models.attack.draw_strengths', lambda *_: torch.tensor(choices))
    data, reference = make_batch(), build(SMALL, tap, 'two_phase', recipe)
    reference.stock_loss = functools.partial(ImageClassifier.loss, reference)
    drawn = torch.tensor(strengths, dtype=torch.float64)[list(choices)].reshape(-1, 1, 1, 1)
    mixed = torch.tensor(reinject)[list(choices)].reshape(-1, 1, 1, 1)
    total, (term, ) = naive_step(reference, data, tap, step_size=0.01, strengths=(drawn, ), reinject=(mixed, ),
                                 weights=(0.7, ), clean_weight=0.8, moments=moments, num_steps=num_steps)
    expected = gradients_of(reference)
    for schedule in ('two_phase', 'single_graph'):
        found, log = step_gradients(build(SMALL, tap, schedule, recipe), data)
        assert_same(found, expected)
        assert log['loss'] == pytest.approx(total, abs=1e-9)
        assert log['adv_t_0.loss'] == pytest.approx(0.7 * term, abs=1e-9)


def test_a_tap_of_which_no_more_is_said_equals_the_naive_reference():
    """One pass of strength 1, not re-injected and of weight 1, at full strength though no hook is there."""
    data, reference = make_batch(), build(SMALL, 'backbone.layer2', 'two_phase', {})
    reference.stock_loss = functools.partial(ImageClassifier.loss, reference)
    naive_step(reference, data, 'backbone.layer2', step_size=0.01, strengths=(1.0, ), reinject=(False, ),
               weights=(1.0, ), clean_weight=0.8)
    assert_same(step_gradients(build(SMALL, 'backbone.layer2', 'auto', {}), data)[0], gradients_of(reference))


@pytest.mark.parametrize('config, tap, head', MODELS_AND_TAPS)
@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
def test_a_later_step_keeps_less_and_gives_the_same(config, tap, head, schedule):
    data, model = make_batch(), build(config, tap, schedule, dict(strengths=(0.5, 1.0), reinject=(False, True)))
    first, log = step_gradients(model, data)
    later, its_log = step_gradients(model, data)
    assert_same(later, first)
    assert its_log == pytest.approx(log, abs=1e-9)


@pytest.mark.parametrize('options', [
    dict(recipe=dict(strengths=(0.25, 1.0), reinject=(False, True), strength_sampling='random')),
    dict(recipe=dict(fraction=0.5, strengths=(0.5, 1.0))),
    dict(recipe=dict(random_start=True, radius=0.02, num_steps=2)),
    dict(recipe=dict(step_unit='std', step_size=0.2, moments='instance', reinject=True)),
    dict(recipe=dict(direction='random_sign')),
    dict(recipe=dict(num_steps=2)),
    dict(recipe=dict(), batch_norm='frozen'),
    dict(recipe=dict(), batch_norm='separate'),
    dict(recipe=dict(), batch_norm='batch'),
    dict(recipe=dict(), replay=False),
], ids=lambda o: '-'.join([*o['recipe'], *[f'{k}={v}' for k, v in o.items() if k != 'recipe']]))
def test_the_two_schedules_agree_for_every_option(options):
    options = dict(options)
    recipe = options.pop('recipe')
    data = make_batch()
    (left, log), (right, other) = [
        step_gradients(build(EFFICIENTNET, 'backbone.layers.3', schedule, recipe, **options), data)
        for schedule in ('two_phase', 'single_graph')]
    assert_same(left, right)
    assert log == pytest.approx(other, abs=1e-9)


def test_replay_equals_running_the_head_again():
    recipe = dict(strengths=(0.5, 1.0), reinject=(False, True))
    (left, _), (right, _) = [
        step_gradients(build(EFFICIENTNET, 'backbone.layers.3', 'two_phase', recipe, replay=replay), make_batch())
        for replay in (True, False)]
    assert_same(left, right)


def test_several_taps_add_up():
    """Gradients are linear in the terms: two taps together equal the sum of each alone, minus the clean part."""
    data = make_batch()
    one = dict(a=dict(module='backbone.layer1', step_size=0.01, strengths=(0.5, 1.0), weight=0.4))
    two = dict(b=dict(module='neck', step_size=0.02, weight=0.6))

    def gradients(taps, schedule='two_phase'):
        return step_gradients(build(RESNET18, 'neck', schedule, {}, taps=taps), data)[0]

    both = gradients({**one, **two})
    assert_same(gradients({**one, **two}, 'single_graph'), both)
    clean = gradients(dict(a=dict(module='neck', step_size=0.0, weight=0.0),
                           ), )
    first, second = gradients(one), gradients(two)
    expected = {}
    for name in both:
        # With no active tap the stock loss is not weighted, so the clean part counts 0.8 here.
        expected[name] = first[name] + second[name] - 0.8 * clean[name]
    assert_same(both, expected)


@pytest.mark.parametrize('fraction', [0.5])
def test_a_fraction_is_the_naive_step_on_the_chosen_samples(fraction, monkeypatch):
    """The adversarial term of a fraction is the mean loss of those samples, with their own batch statistics."""
    data = make_batch()
    model = build(RESNET18, 'backbone.layer2', 'two_phase', dict(fraction=fraction, strengths=(1.0, )))
    chosen = []
    losses = Suffix.losses

    def spy(tail, features):
        chosen.append((tail.chosen.indices, features))
        return losses(tail, features)

    monkeypatch.setattr(Suffix, 'losses', spy)
    _, log = step_gradients(model, data)
    indices, features = chosen[-1]
    assert len(indices) == 2 and features[0].shape[0] == 2
    fresh = build(RESNET18, 'backbone.layer2', 'two_phase', {})
    handle = fresh.backbone.layer2.register_forward_hook(lambda *_: features[0])
    part = dict(inputs=data['inputs'][indices], data_samples=[data['data_samples'][i] for i in indices])
    with fresh.afan.entered(fresh):
        expected = fresh.loss(**part)['loss']
    handle.remove()
    assert log['adv_t_0.loss'] == pytest.approx(float(expected), abs=1e-10)
