"""What an attack refuses."""
from __future__ import annotations

import pytest
import torch

from mmafan.models.attack import Attack
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
