"""Where the backbone of a model is, what stands for its stages, and what a tap keeps where losses have other names."""
from __future__ import annotations

import pytest
from mmengine.logging import MessageHub
from torch import nn

from mmafan.cli.probe import Candidate
from mmafan.cli.recipes import Recipe
from mmafan.cli.stages import recommend_stage
from mmafan.cli.taps_command import Search


def stages():
    net = nn.Module()
    net.layer1, net.layer2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
    return net


def candidates(*paths):
    return [Candidate(path, [(2, 8, 16, 16)]) for path in paths]


@pytest.mark.parametrize('name', ['backbone', 'image_encoder.0', 'detector.backbone', 'student.backbone'])
def test_the_backbone_is_found_where_models_have_it(name):
    model, (parent, _, own) = nn.Module(), name.rpartition('.')
    if parent:
        model.add_module(parent, nn.Module())
    model.get_submodule(parent).add_module(own, stages())
    found = candidates(f'{name}.layer1', f'{name}.layer2', 'head')
    assert recommend_stage(2, model, found, 64) == f'{name}.layer2'
    assert recommend_stage(2, model, [*candidates(name), found[2]], 64) == name  # nothing inside can be a tap
    assert recommend_stage(2, model, found[2:], 64) is None


@pytest.mark.parametrize('losses, kept', [
    (('loss_rpn_cls', 'loss_rcnn_emd'), None), (('loss_cls', 'loss_bbox', 'loss_rpn_cls'), ('loss_cls', '*bbox')),
    (('loss_cls', ), None)])
def test_a_tap_of_other_losses_keeps_all_that_depend_on_it(losses, kept):
    tap = dict(module='roi_head.fcs', losses=('loss_cls', '*bbox'))
    recipe = Recipe('x.py', dict(taps=dict(roi=tap)), {}, {})
    Search(None, nn.Module(), [], (64, 64), losses).place(recipe)
    assert recipe.taps['roi'].get('losses') == kept


def test_stock_models_are_told_how_far_training_is():
    """Some ask in their loss, as YOLOX does for the size of its images."""
    pytest.importorskip('mmpretrain.models', reason='the model is one of mmpretrain')
    from mmafan.cli.configs import build_model
    hub = MessageHub.get_current_instance()
    hub.update_info('epoch', 7)
    build_model(dict(default_scope='mmpretrain'), dict(type='GlobalAveragePooling'))
    assert hub.get_info('iter') == 0 and hub.get_info('epoch') == 7 and hub.get_info('max_iters') > 0
