"""Mixed precision as ``AmpOptimWrapper`` has it on a GPU, and the memory format that its convolutions prefer."""
from __future__ import annotations

import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper

pytest.importorskip('mmpretrain', reason='the tiny classifier is a model of mmpretrain')

from ..half import Float16OptimWrapper  # noqa: E402
from ..parity.test_gradients import assert_same, step_gradients  # noqa: E402

pytestmark = pytest.mark.gpu

SCHEDULES = ('two_phase', 'single_graph')


def afan_of(schedule, **tap):
    tap = dict(dict(module='backbone.layer1', step_size=0.1, step_unit='std', strengths=1.0), **tap)
    return dict(taps=dict(s=tap), clean_weight=0.5, batch_norm='separate', schedule=schedule)


def train(model, batch, dtype=None, scale=1024.0):
    """Train one step of SGD, in mixed precision where a type is given; return the optimizer wrapper."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if dtype is None:
        wrapper = OptimWrapper(optimizer)
    elif batch['inputs'].is_cuda:
        wrapper = AmpOptimWrapper(optimizer=optimizer, dtype=str(dtype)[len('torch.'):],
                                  loss_scale=dict(init_scale=scale, growth_interval=1000))
    else:  # which mmengine refuses to build
        wrapper = Float16OptimWrapper(scale, dtype, optimizer=optimizer)
    model.train().train_step(dict(batch), wrapper)
    return wrapper


def weights_of(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_an_overflow_skips_the_step_and_poisons_nothing(tiny_classifier, tiny_batch, device, moved, schedule):
    model = tiny_classifier(afan=afan_of(schedule)).to(device)
    before, batch = weights_of(model), moved(tiny_batch(), device)
    wrapper = train(model, batch, torch.float16, scale=2.0**60)
    assert wrapper.loss_scaler.get_scale() == 2.0**59
    assert torch.equal(weights_of(model), before)
    assert all(torch.isfinite(b).all() for b in model.buffers())
    assert not wrapper.optimizer.state  # no momentum of an infinite gradient
    wrapper.loss_scaler.update(2.0**10)
    model.train_step(dict(batch), wrapper)
    after = weights_of(model)
    assert torch.isfinite(after).all() and not torch.equal(after, before)


@pytest.mark.parametrize('dtype, least', [(torch.float16, 0.95), (torch.bfloat16, 0.85)], ids=['float16', 'bfloat16'])
@pytest.mark.parametrize('schedule', SCHEDULES)
def test_the_step_is_that_of_float32_up_to_rounding(tiny_classifier, tiny_batch, device, moved, schedule, dtype, least):
    """In the direction of all weights together; scaled gradients that were not divided again would be 1024 as long."""
    half, single = (tiny_classifier(afan=afan_of(schedule)).to(device) for _ in range(2))
    start, batch = weights_of(half), moved(tiny_batch(32, 32), device)
    train(half, batch, dtype)
    train(single, batch)
    steps = [weights_of(model) - start for model in (half, single)]
    assert float(torch.cosine_similarity(*steps, dim=0)) > least
    assert float(steps[0].norm() / steps[1].norm()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_a_small_perturbation_survives(tiny_classifier, tiny_batch, device, moved, dtype):
    """Of 1e-4 of the feature's standard deviation: below the resolution of both types (1e-3 and 8e-3)."""
    model, seen = tiny_classifier(afan=afan_of('two_phase', step_size=1e-4)).to(device), []
    model.backbone.layer2.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    train(model, moved(tiny_batch(), device), dtype)
    clean, change = seen[0].double(), seen[-1].double() - seen[0].double()  # the clean pass first, the adversarial last
    assert seen[0].dtype == dtype
    assert 0.9e-4 < float(change.square().mean().sqrt() / clean.std()) < 1.1e-4
    assert float((change != 0).double().mean()) > 0.95


@pytest.mark.parametrize('reinject', [False, True])
@pytest.mark.parametrize('schedule', SCHEDULES)
def test_channels_last_stays_and_changes_nothing(tiny_classifier, tiny_batch, device, moved, schedule, reinject):
    """In float32, as convolutions of float64 do not keep the format; along the gradient, whose sign may be chance."""
    gradients, formats = [], []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model = tiny_classifier(afan=afan_of(schedule, reinject=reinject, norm='l2', step_size=0.5)).train()
        model = model.to(device, memory_format=memory_format)
        model.backbone.layer2.register_forward_pre_hook(
            lambda _, args: formats.append(args[0].is_contiguous(memory_format=memory_format)))
        gradients.append(step_gradients(model, moved(tiny_batch(image_size=16), device, memory_format))[0])
    assert_same(gradients[1], gradients[0], 1e-4)
    assert len(formats) >= 4 and all(formats)
