"""The stages of a network by any name, and what is offered for a tap's module that does not exist."""
from __future__ import annotations

import pytest
from torch import nn

from mmafan.models.tap_paths import check_model, find_series


class ConvNeXtLike(nn.Module):
    """Stages in a list, beside norms whose names are nearer to 'layer2'."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.stages = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        for k in range(4):
            self.backbone.add_module(f'norm{k}', nn.LayerNorm(8))


@pytest.mark.parametrize('module, hint', [
    ('backbone.layer2', "the stages of its backbone are 'backbone.stages.0', 'backbone.stages.1'"),
    ('backbone.norn2', "did you mean 'backbone.norm2'"),
    ('backbon.norm2', "did you mean 'backbone.norm2'"),
    ('backbon', "did you mean 'backbone'?"),
])
def test_error_offers_modules_that_can_be_a_tap(module, hint):
    from mmafan.config import AFANConfig
    config = AFANConfig.from_dict(dict(taps=dict(s=dict(module=module, step_size=0.1))))
    with pytest.raises(ValueError) as error:
        check_model(ConvNeXtLike(), config)
    assert hint in str(error.value) and '\n' not in str(error.value)
    assert 'norm3' not in str(error.value) or module.endswith('norm2') or module.endswith('norn2')


def test_series_is_the_largest():
    assert find_series(ConvNeXtLike().backbone) == [f'stages.{k}' for k in range(4)]
