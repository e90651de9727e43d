"""The ratio of adversarial to clean losses, by hand."""
from __future__ import annotations

import pytest
import torch

from mmafan.config import AFANConfig
from mmafan.hooks.loss_ratio import loss_ratios


def config(clean_weight=1.0, **taps):
    return AFANConfig.from_dict(dict(
        taps={name: dict(dict(module=name, step_size=1.0), **tap) for name, tap in taps.items()},
        clean_weight=clean_weight))


def test_weights_are_taken_out():
    """Clean 1 and 3 with a weight of 0.5; adversarial (2 + 4) and (1 + 4) with weights 2 and 4: 1.5 and 1.25."""
    outputs = {'loss': torch.tensor(99.), 'loss_cls': torch.tensor(0.5), 'loss_bbox': torch.tensor(1.5),
               'acc': torch.tensor(7.), 'adv_a_0.loss_cls': torch.tensor(4.), 'adv_a_0.loss_bbox': torch.tensor(8.),
               'adv_a_0.acc': torch.tensor(50.), 'adv_a_1.loss_cls': torch.tensor(4.),
               'adv_a_1.loss_bbox': torch.tensor(16.)}
    found = loss_ratios(outputs, config(0.5, a=dict(strengths=(0.5, 1.0), weight=(2.0, 4.0))))
    assert found == {'a': pytest.approx((6 / 4 + 5 / 4) / 2)}


def test_a_tap_is_compared_with_the_losses_it_keeps():
    outputs = {'loss': 0.0, 'loss_rpn': 10.0, 'loss_cls': 2.0, 'adv_roi_0.loss_cls': 3.0}
    assert loss_ratios(outputs, config(roi=dict(losses=('loss_cls', )))) == {'roi': 1.5}


@pytest.mark.parametrize('outputs', [
    {}, {'loss': 1.0, 'clean_loss': 1.0}, {'loss': 0.0, 'clean_loss': 0.0, 'adv_a_0.loss': 1.0}])
def test_taps_without_a_pass_or_without_a_loss_are_left_out(outputs):
    assert loss_ratios(outputs, config(a={})) == {}
