"""Mixed precision: float16 with a dynamic loss scale, and bfloat16, through what ``AmpOptimWrapper`` does."""
from __future__ import annotations

import pytest
import torch
from mmengine.optim import OptimWrapper

from mmafan.replay import PassKind, current_pass

from ..half import Float16OptimWrapper

if not hasattr(torch.amp, 'GradScaler'):
    pytest.skip('torch before 2.3 has no loss scale on the CPU', allow_module_level=True)


def afan_of(schedule='auto', learned=False, **tap):
    tap = dict(dict(module='backbone.layer1', step_size=0.1, step_unit='std', strengths=1.0, reinject=False), **tap)
    taps = dict(s=tap, **(dict(t=dict(tap, module='backbone.layer3')) if learned else {}))
    return dict(taps=taps, clean_weight=0.5, batch_norm='separate', schedule=schedule,
                **(dict(learn_strengths=dict(lr=0.1)) if learned else {}))


def watch(model):
    """Note what comes to the module after the tap."""
    seen = []
    model.backbone.layer2.register_forward_pre_hook(
        lambda _, args: seen.append((current_pass().kind, args[0].detach().clone())))
    return seen


def perturbation(seen):
    clean = next(f for kind, f in seen if kind is PassKind.CLEAN)
    adversarial = [f for kind, f in seen if kind is PassKind.ADVERSARIAL][-1]
    return adversarial.double() - clean.double(), clean


def train(model, batch, scale=1024.0, dtype=torch.float16, count=1):
    wrapper = Float16OptimWrapper(scale, dtype, optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    model.train()
    model.afan.controls.hooked = True
    for _ in range(count):
        model.train_step(dict(batch, inputs=list(batch['inputs'])), wrapper)
    return wrapper


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
def test_a_small_perturbation_survives(tiny_classifier, tiny_batch, schedule, dtype):
    """Of 1e-4 of the feature's deviation: below the resolution of both (1e-3 and 8e-3); the tail still gets it."""
    model = tiny_classifier(afan=afan_of(schedule, step_size=1e-4))
    seen = watch(model)
    train(model, tiny_batch(), dtype=dtype)
    change, clean = perturbation(seen)
    assert clean.dtype == dtype
    moved = change.abs() > 0
    assert 0.9e-4 < float(change.square().mean().sqrt() / clean.double().std()) < 1.1e-4
    assert float(moved.double().mean()) > 0.95


@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
def test_the_attack_does_not_depend_on_the_loss_scale(tiny_classifier, tiny_batch, schedule):
    """Gradients of 2**-24 vanish in float16 and those above 65504 overflow; in between directions stay."""
    changes = []
    for scale in (2.0**4, 2.0**10, 2.0**16):
        model = tiny_classifier(afan=afan_of(schedule))
        seen = watch(model)
        train(model, tiny_batch(), scale)
        changes.append(perturbation(seen)[0])
    for change in changes[1:]:
        assert float((change.sign() == changes[0].sign()).double().mean()) > 0.99


@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
def test_an_overflow_skips_the_step_and_poisons_nothing(tiny_classifier, tiny_batch, schedule):
    """The scaler makes no step and halves its scale; the next steps train."""
    model = tiny_classifier(afan=afan_of(schedule, learned=True))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    wrapper = train(model, tiny_batch(), scale=2.0**60)
    model.afan.learned.step(2.0**60)  # as the hook does
    assert wrapper.loss_scaler.get_scale() == 2.0**59
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert all(torch.isfinite(b).all() for b in model.buffers())
    assert {n: float(v.detach()) for n, v in model.afan.learned.factors.items()} == {'s': 0.5, 't': 0.5}
    assert not wrapper.optimizer.state  # no momentum of an infinite gradient
    wrapper.loss_scaler.update(2.0**10)
    model.train_step(dict(tiny_batch(), inputs=list(tiny_batch()['inputs'])), wrapper)
    assert any(not torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
def test_the_step_is_that_of_float32_up_to_rounding(tiny_classifier, tiny_batch, schedule):
    """In the direction of all weights together; scaled gradients that were not divided again would be 1024 as long."""
    half, single = (tiny_classifier(afan=afan_of(schedule)) for _ in range(2))
    start = torch.cat([p.detach().flatten() for p in half.parameters()])
    batch = tiny_batch(32, 32)
    train(half, batch)
    wrapper = OptimWrapper(torch.optim.SGD(single.parameters(), lr=0.1, momentum=0.9))
    single.train().train_step(dict(batch, inputs=list(batch['inputs'])), wrapper)
    steps = [torch.cat([p.detach().flatten() for p in model.parameters()]) - start for model in (half, single)]
    # 0.969 here, 0.994 for the stock model: rounding turns the sign of gradients near zero, which the attack follows.
    assert float(torch.cosine_similarity(*steps, dim=0)) > 0.95
    assert float(steps[0].norm() / steps[1].norm()) == pytest.approx(1, abs=0.02)
