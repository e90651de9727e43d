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
