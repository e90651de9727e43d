"""An attack against NumPy, what its passes get, and what it refuses."""
from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmafan.functional import draw_random_start, draw_strengths, reinject_statistics
from mmafan.models.attack import Attack, Suffix
from mmafan.tap_config import TapConfig


def test_a_drawn_strength_needs_as_many_samples_in_every_tensor():
    config = TapConfig('neck', 0.1, strengths=(0.5, 1.0), strength_sampling='random', where='afan.taps.n')
    features = [torch.randn(3, 2), torch.randn(2, 2)]
    with pytest.raises(ValueError, match=r"^afan\.taps\.n\.strength_sampling must be 'all' for 'neck', got 'random': "
                                         'its tensors have 3 and 2 samples$'):
        Attack(config, features, torch.Generator())


def test_without_a_gradient_no_sample_is_skipped_or_moved():
    attack = Attack(TapConfig('neck', 0.1), [torch.randn(3, 2)], torch.Generator())
    attack.run([None], lambda _: [None])
    assert int(attack.num_skipped) == 0 and torch.equal(attack.adversarial[0], attack.clean[0])


def test_samples_without_a_finite_gradient_are_counted_once_for_each_tensor_and_step():
    features = [torch.randn(3, 2), torch.randn(3, 4)]
    gradients = [torch.ones(3, 2), torch.ones(3, 4)]
    gradients[0][1, 0], gradients[1][1:, 3] = float('nan'), float('inf')
    attack = Attack(TapConfig('neck', 0.1, num_steps=2), features, torch.Generator())
    attack.run(gradients, lambda _: gradients)
    assert int(attack.num_skipped) == 2 * (1 + 2)
    for feature, adversarial, moved in zip(features, attack.adversarial, ([1, 0, 1], [1, 0, 0])):
        expected = feature + 0.2 * torch.tensor(moved)[:, None]
        torch.testing.assert_close(adversarial, expected)


# ---------------------------------------------------------------- the steps, against NumPy
def draw(*shapes, dtype=torch.float64):
    return [torch.randn(shape, dtype=dtype) + 0.3 for shape in shapes]


def rows(values):
    return np.asarray(values).reshape(-1, 1, 1)


def numpy_attack(config, features, starts, gradient_at):
    """Ascend by the equations, sample by sample; each sample is one row of the feature."""
    found = [f.copy() for f in features]
    units = [f.std((1, 2)) if config.step_unit == 'std' else np.ones(len(f)) for f in features]
    lengths = (lambda v: np.abs(v).max((1, 2))) if config.norm == 'linf' else (lambda v: np.sqrt((v**2).sum((1, 2))))
    found = [f + start for f, start in zip(found, starts)]
    for step in range(config.num_steps):
        for number, (clean, gradient) in enumerate(zip(features, gradient_at(found, step))):
            bad = ~np.isfinite(gradient).all((1, 2))
            with np.errstate(invalid='ignore'):
                direction = np.sign(gradient) if config.norm == 'linf' else gradient / rows(lengths(gradient))
            change = found[number] + rows(config.step_size * units[number]) * direction - clean
            if config.radius is not None and config.norm == 'linf':
                change = np.clip(change, -rows(config.radius * units[number]), rows(config.radius * units[number]))
            elif config.radius is not None:
                change = change * rows(np.minimum(1, config.radius * units[number] / lengths(change)))
            new = clean + change if config.clamp is None else np.clip(clean + change, *config.clamp)
            new[bad] = clean[bad]  # it is not perturbed at all
            found[number] = new
    return found


STEPS = {
    'one step': dict(),
    'std': dict(num_steps=3, step_unit='std'),
    'ball': dict(num_steps=3, step_unit='std', radius=0.15),
    'l2': dict(num_steps=3, norm='l2', step_unit='std', step_size=0.4, radius=0.7),
    'absolute': dict(num_steps=2, norm='l2', radius=0.15),
    'clamp': dict(num_steps=2, step_size=0.4, clamp=(-0.5, 0.6)),
    'start': dict(radius=0.2, random_start=True),
    'start in std': dict(num_steps=2, radius=0.5, random_start=True, step_unit='std', norm='l2'),
}


@pytest.mark.parametrize('bad', [None, 0, 1], ids=['finite', 'first', 'second'])
@pytest.mark.parametrize('given', [True, False], ids=['first gradient known', 'not known'])
@pytest.mark.parametrize('case', STEPS)
def test_the_steps_follow_the_equations(case, given, bad):
    """On a quadratic loss, whose gradient changes from step to step; in one step a sample has none."""
    config = TapConfig('neck', **dict(dict(step_size=0.1), **STEPS[case]))
    features, centres, calls = draw((3, 4, 5), (2, 3, 2)), draw((3, 4, 5), (2, 3, 2)), []

    def gradient_at(tensors, step):
        found = [2 * (t - c) for t, c in zip(tensors, centres)]
        if step == bad:
            found[0][1, 2, 3] = float('nan')
        return found

    def asked(tensors):
        calls.append(len(tensors))
        known = given and not config.random_start
        return gradient_at(tensors, len(calls) - 1 + known)

    attack = Attack(config, features, torch.Generator().manual_seed(7))
    attack.run(gradient_at(features, 0) if given else None, asked)
    assert calls == [2] * (config.num_steps - (given and not config.random_start))
    generator, starts = torch.Generator().manual_seed(7), [np.zeros(f.shape) for f in features]
    if config.random_start:
        units = [f.numpy().std((1, 2)) if config.step_unit == 'std' else np.ones(len(f)) for f in features]
        starts = [draw_random_start(f, torch.tensor(rows(u * config.radius)), config.norm, generator).numpy()
                  for f, u in zip(features, units)]
    expected = numpy_attack(config, [f.numpy() for f in features], starts, lambda tensors, step: [
        g.numpy() for g in gradient_at([torch.from_numpy(t) for t in tensors], step)])
    for clean, found, right in zip(features, attack.adversarial, expected):
        np.testing.assert_allclose(found.numpy(), right, rtol=1e-9, atol=1e-9)
    change = sum(float(((r - f.numpy())**2).sum()) for r, f in zip(expected, features))
    spread = sum(float(((f - f.mean())**2).sum()) for f in features)
    assert float(attack.relative_size()) == pytest.approx(math.sqrt(change / spread), rel=1e-9)
    assert int(attack.num_skipped) == (bad is not None and bad < config.num_steps)


def test_random_signs_are_noise_of_the_size_of_the_attack():
    """The same ones in every step, drawn anew for each tensor, whatever the gradient is; no pass is needed for them."""
    features, attack_seed = [torch.zeros(40, 30), torch.zeros(40, 30)], 11
    attack = Attack(TapConfig('neck', 0.1, num_steps=3, direction='random_sign'), features,
                    torch.Generator().manual_seed(attack_seed))
    attack.run([torch.ones(40, 30), torch.ones(40, 30)], lambda _: pytest.fail('no gradient is needed'))
    first, second = attack.adversarial
    twin = torch.Generator().manual_seed(attack_seed)
    assert all(torch.equal(noise > 0, torch.randn(40, 30, generator=twin) > 0) for noise in (first, second))
    for noise in (first, second):
        torch.testing.assert_close(noise.abs(), torch.full_like(noise, 0.3))
        assert abs(float(noise.mean())) < 4 * 0.3 / math.sqrt(1200)
    assert abs(float((first * second).mean())) < 4 * 0.09 / math.sqrt(1200)


def test_a_tensor_without_a_gradient_stays_and_the_others_move():
    features = draw((3, 4), (3, 2), (3, 5))
    attack = Attack(TapConfig('neck', 0.1), features, torch.Generator())
    attack.run([torch.ones(3, 4), None, torch.ones(3, 5)], lambda _: [])
    for clean, found, size in zip(features, attack.adversarial, (0.1, 0.0, 0.1)):
        torch.testing.assert_close(found, clean + size)


@pytest.mark.parametrize('keep_wide', [False, True])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_what_the_suffix_gets_is_of_its_dtype_and_what_is_perturbed_is_wide(dtype, keep_wide):
    """A step far below the spacing of half precision is kept until the feature is given out."""
    feature = torch.full((2, 3), 8.0, dtype=dtype)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    given = wide if keep_wide else dtype
    attack = Attack(TapConfig('neck', 1e-3, num_steps=2, reinject=(False, True), strengths=(0.5, 1.0)), [feature],
                    torch.Generator(), **(dict(keep_wide=True) if keep_wide else {}))
    asked = []
    attack.run([torch.ones_like(feature)], lambda fs: asked.extend(f.dtype for f in fs) or [torch.ones(2, 3)])
    assert asked == [given] and attack.adversarial[0].dtype is attack.clean[0].dtype is wide
    torch.testing.assert_close(attack.adversarial[0], torch.full((2, 3), 8.002, dtype=wide), rtol=0, atol=2e-6)
    assert [mixed.dtype for _, (mixed, ) in attack.passes()] == [given, given]


# ---------------------------------------------------------------- the passes
MOMENTS = [dict(moments='channel'), dict(moments='batch'), dict(moments='instance'),
           dict(moments='group', num_groups=2), dict(moments='channel', channel_dim=2)]


def attacked(scale=1.0, **fields):
    """An attack whose full perturbation is random, and its generator's twin."""
    features = draw((6, 4, 3, 2), (6, 2, 4, 3))
    attack = Attack(TapConfig('neck', 0.1, **fields), features, torch.Generator().manual_seed(3), scale)
    attack.adversarial = [f + d for f, d in zip(features, draw(*[f.shape for f in features]))]
    return attack, torch.Generator().manual_seed(3)


def mixed_by_hand(attack, index, strength, reinject, options):
    clean, adversarial = attack.clean[index], attack.adversarial[index]
    mixed = clean + strength * (adversarial - clean)
    return reinject_statistics(clean, mixed, eps=1e-5, **options) if reinject else mixed


@pytest.mark.parametrize('learned', [None, 0.5])
@pytest.mark.parametrize('options', MOMENTS, ids=str)
def test_each_pass_has_its_strength_and_its_statistics(options, learned):
    attack, _ = attacked(0.8, strengths=(0.25, 0.5, 1.0), reinject=(False, True, True), weight=(1.0, 0.0, 2.0),
                         **options)
    factor = None if learned is None else torch.tensor(learned, requires_grad=True)
    for _ in range(2):  # what is kept for the next one changes nothing
        passes = list(attack.passes(factor))
        assert [(p.number, p.strength, p.weight) for p, _ in passes] == [(0, 0.25, 1.0), (2, 1.0, 2.0)]
        for wanted, mixed in passes:
            share = 0.8 * wanted.strength * (learned or 1.0)
            right, above = ([mixed_by_hand(attack, index, share * times, wanted.reinject, options) for index in (0, 1)]
                            for times in (1, 1 + 1e-6))
            torch.testing.assert_close(mixed, right)
            if factor is not None:
                slope, = torch.autograd.grad(sum(found.square().sum() for found in mixed), factor)
                rise = sum(float(a.square().sum() - r.square().sum()) for a, r in zip(above, right))
                assert float(slope) == pytest.approx(rise / (learned * 1e-6), rel=1e-3)


@pytest.mark.parametrize('reinject', [(False, True, True), (False, False, False), (True, True, True)], ids=str)
@pytest.mark.parametrize('options', MOMENTS, ids=str)
def test_each_sample_has_the_strength_it_has_drawn_and_its_statistics(options, reinject):
    strengths = (0.25, 0.5, 1.0)
    attack, generator = attacked(0.8, strengths=strengths, reinject=reinject, strength_sampling='random', **options)
    drawn = draw_strengths(strengths, 6, generator).tolist()
    assert len(set(map(reinject.__getitem__, drawn))) == len(set(reinject))  # both kinds are there
    share = 0.8 * torch.tensor([strengths[k] for k in drawn], dtype=torch.float64).reshape(-1, 1, 1, 1)
    (wanted, mixed), = attack.passes()
    assert wanted.strength is None
    for index, found in enumerate(mixed):
        plain, other = (mixed_by_hand(attack, index, share, one, options) for one in (False, True))
        expected = torch.stack([(other if reinject[k] else plain)[n] for n, k in enumerate(drawn)])
        torch.testing.assert_close(found, expected)


# ---------------------------------------------------------------- half precision
def suffix_with(dtypes, scaler=None):
    suffix = Suffix.__new__(Suffix)
    suffix.features = [torch.ones(1, dtype=dtype) for dtype in dtypes]
    suffix.model = SimpleNamespace(afan=SimpleNamespace(controls=SimpleNamespace(loss_scaler=scaler)))
    return suffix


def test_the_loss_of_an_attack_is_scaled_up_where_its_gradients_might_vanish():
    """By a power of 2, which rounds nothing; no less than what the run's own scaler does, and never to nothing."""
    for dtypes in ([torch.float32], [torch.bfloat16, torch.float64]):
        assert suffix_with(dtypes)._scaled(torch.tensor(0.7)) == torch.tensor(0.7)
    total, half = torch.tensor(0.75), [torch.float32, torch.float16]
    alone = float(suffix_with(half)._scaled(total) / total)
    assert math.log2(alone).is_integer() and alone >= 512
    for scale in (1.0, 2.0**16):
        scaler = SimpleNamespace(scale=lambda one: one * scale)
        assert float(suffix_with(half, scaler)._scaled(total) / total) == max(scale, alone)
