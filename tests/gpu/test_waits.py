"""How often a step waits for the GPU: a classifier's never, others' no more often than the stock losses they run."""
from __future__ import annotations

import contextlib
import warnings

import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper

pytest.importorskip('mmpretrain', reason='the tiny classifier is a model of mmpretrain')

pytestmark = pytest.mark.gpu

STOCK = dict(type='ImageClassifier', afan=None)
TAP = dict(module='backbone.layer1', step_size=0.1, step_unit='std')
DRAWN = dict(TAP, strengths=(0.25, 0.5, 0.75, 1.0), strength_sampling='random', reinject=(False, False, True, True))
RECIPES = dict(
    drawn=DRAWN, fixed=dict(TAP, strengths=(0.5, 1.0), reinject=(False, True)), half=dict(DRAWN, fraction=0.5),
    pgd=dict(TAP, num_steps=2, random_start=True, radius=0.2), noise=dict(TAP, direction='random_sign'))


@contextlib.contextmanager
def watch_waits(mode):
    """Have torch tell of every wait for the GPU; with ``'error'`` the first one raises."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            yield caught
    finally:
        torch.cuda.set_sync_debug_mode(before)


def count_waits(model, batch, wrapper, data_of=dict):
    """Count the waits of the fourth step."""
    for _ in range(3):
        model.train_step(data_of(batch), wrapper)
    with watch_waits('warn') as caught:
        model.train_step(data_of(batch), wrapper)
    return sum('synchronizing CUDA operation' in str(warning.message) for warning in caught)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def test_a_wait_is_told(cuda):
    value = torch.ones(1, device=cuda)
    with watch_waits('warn') as caught:
        value.item()
    assert any('synchronizing CUDA operation' in str(warning.message) for warning in caught)
    with pytest.raises(RuntimeError, match='synchronizing CUDA operation'), watch_waits('error'):
        value.item()


def assert_no_wait(model, batch):
    """Train four steps; in the last one no wait is allowed."""
    wrapper = OptimWrapper(sgd(model))
    for _ in range(3):
        model.train_step(dict(batch), wrapper)
    with watch_waits('error'):
        model.train_step(dict(batch), wrapper)


def test_no_step_of_the_stock_classifier_waits(tiny_classifier, tiny_batch, cuda, moved):
    assert_no_wait(tiny_classifier(**STOCK).to(cuda).train(), moved(tiny_batch(8, 16), cuda))


@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
@pytest.mark.parametrize('name', RECIPES)
def test_no_step_of_a_classifier_waits(tiny_classifier, tiny_batch, cuda, moved, name, schedule):
    afan = dict(taps=dict(s=RECIPES[name]), batch_norm='batch', schedule=schedule)
    assert_no_wait(tiny_classifier(afan=afan).to(cuda).train(), moved(tiny_batch(8, 16), cuda))


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_mixed_precision_waits_as_often_as_the_stock_model(tiny_classifier, tiny_batch, cuda, moved, dtype):
    """For the loss scale, which the optimizer reads; where features are float16 the attack may read it once more."""
    counts = []
    for changes in (STOCK, dict(afan=dict(taps=dict(s=DRAWN), batch_norm='batch'))):
        model = tiny_classifier(**changes).to(cuda).train()
        wrapper = AmpOptimWrapper(optimizer=sgd(model), dtype=dtype, loss_scale='dynamic')
        counts.append(count_waits(model, moved(tiny_batch(8, 16), cuda), wrapper))
    print(f'measured: waits of a step in {dtype}: stock {counts[0]}, A-FAN {counts[1]}')
    assert counts[1] <= counts[0] + (dtype == 'float16')


def test_other_tasks_wait_no_more_than_their_losses(cuda, moved, small_model):
    """With one adversarial pass, the stock losses run twice."""
    models, name, batch = small_model
    batch, counts = moved(batch, cuda), []
    for afan in (None, dict(taps=dict(s=dict(DRAWN, module='backbone.layer2')), batch_norm='frozen')):
        model = models.build(name, afan).to(cuda)
        model.data_preprocessor.forward = lambda data, training=False: data
        counts.append(count_waits(model, batch, OptimWrapper(sgd(model))))
    print(f'measured: waits of a step of {name}: stock {counts[0]}, A-FAN {counts[1]}')
    assert counts[1] <= 2 * counts[0]
