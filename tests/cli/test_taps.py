"""``mmafan taps``: which modules it lists, what it says of each, and which one it recommends."""
from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from mmafan.cli.main import main
from mmafan.cli.probe import Candidate, find_candidates
from mmafan.cli.recipes import BASES, RECIPES, choose_recipe, read_recipe, stage_of
from mmafan.cli.stages import resolve, stage_path, stem_path
from mmafan.models.tap_paths import find_series


class Net(nn.Module):
    """Two stages of which the first has a batch norm, a part that is never called and one without a gradient."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4))
        self.layer2 = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.idle = nn.Linear(4, 4)

    def forward(self, images):
        self.frozen(images.mean((2, 3))[:, :1].expand(-1, 4))
        return self.layer2(self.layer1(images)).sum()


def test_candidates_are_features_with_a_gradient_in_their_order():
    net, images = Net(), torch.rand(2, 3, 8, 8)
    found = find_candidates(net, lambda _: net(images).backward(), repeats=1)
    by_path = {c.path: c for c in found}
    assert list(by_path) == ['layer1.0', 'layer1.1', 'layer1', 'layer2.0', 'layer2.1', 'layer2']
    assert by_path['layer1'].shapes == [(2, 4, 4, 4)] and by_path['layer1'].calls == 1
    assert [c.batch_norms for c in found] == [2, 1, 1, 1, 0, 0]
    assert all(0 < c.share < 1 for c in found)
    assert by_path['layer1'].share > by_path['layer2'].share
    assert not any(m._forward_hooks for m in net.modules())


def maps(**heights):
    return [Candidate(path.replace('_', '.'), [(2, 8, height, height)]) for path, height in heights.items()]


def test_stage_of_short_series_is_the_one_of_that_number():
    found = maps(backbone_layer1=8, backbone_layer2=4, backbone_layer3=2)
    series = [c.path for c in found]
    assert [stage_path(k, series, found, 32) for k in (1, 2, 3, 4)] == [*series, series[-1]]


def test_frozen_stage_is_stood_for_by_the_next_and_the_others_keep_their_number():
    series = [f'backbone.layer{k}' for k in (1, 2, 3, 4)]
    found = maps(backbone_layer2=4, backbone_layer3=2, backbone_layer4=1)
    assert [stage_path(k, series, found, 32) for k in (1, 2, 3, 4)] == [series[1], *series[1:]]


# Modules in the order in which they run, with their classes: the stem of the first is the module of the second.
STEMS = [
    (dict(conv1='Conv2d', bn1='BatchNorm2d', relu='ReLU', maxpool='MaxPool2d', layer1='Sequential'), 'relu'),
    ({'stem.0': 'Conv2d', 'stem': 'Sequential', 'maxpool': 'MaxPool2d', 'layer1': 'Sequential'}, 'stem'),
    ({'downsample_layers.0': 'Sequential', 'stages.0': 'Sequential', 'downsample_layers.1': 'Sequential'},
     'downsample_layers.0'),
    ({'patch_embed': 'PatchEmbed', 'drop_after_pos': 'Dropout', 'stages.0.blocks.0': 'SwinBlock'}, 'patch_embed'),
    ({'layers.0.conv': 'Conv2d', 'layers.0': 'ConvModule', 'layers.1.0': 'InvertedResidual'}, 'layers.0'),
    ({'layers.0.0.projection': 'Conv2d', 'layers.0.0': 'PatchEmbed', 'layers.0.1.0': 'Block'}, 'layers.0.0'),
    ({'layer2.0': 'BasicBlock', 'layer2': 'Sequential', 'layer3': 'Sequential'}, 'layer2'),  # all before is frozen
]


@pytest.mark.parametrize('modules, stem', STEMS, ids=[stem for _, stem in STEMS])
def test_stem_is_what_runs_before_the_first_stage(modules, stem):
    kinds = {f'backbone.{path}': kind for path, kind in modules.items()}
    series = [f'backbone.{name}{k}' for name in ('layer', 'layers.', 'stages.') for k in (0, 1, 2, 3)
              if any(path.startswith(f'{name}{k}') for path in modules)]
    found = [Candidate('data_preprocessor.x', [(2, 3, 8, 8)]), *(Candidate(path, [(2, 8, 8, 8)]) for path in kinds)]
    assert stem_path(series, found, dict(kinds, **{'data_preprocessor.x': 'Norm'})) == f'backbone.{stem}'
    assert stem_path(series, found[:1], {}) is None


def test_stage_of_long_series_goes_by_resolution():
    heights = dict(zip(range(8), (16, 16, 8, 4, 4, 2, 1, 1)))
    found = maps(**{f'backbone_layers_{k}': height for k, height in heights.items()})
    series = [c.path for c in found]
    assert [stage_path(k, series, found, 32) for k in (1, 2, 3, 4)] == [series[k] for k in (2, 4, 5, 7)]


def test_stage_of_plain_transformer_goes_by_quarters():
    found = [Candidate(f'backbone.layers.{k}', [(2, 197, 8)]) for k in range(12)]
    series = [c.path for c in found]
    assert [stage_path(k, series, found, 224) for k in (1, 2, 3, 4)] == [series[k] for k in (2, 5, 8, 11)]


def test_list_and_merged_tokens_are_stood_for_by_their_last_part():
    listed = [Candidate(f'backbone.layers.1.{k}', [(2, 16, 8)]) for k in ('0', '1.0', '1.1', '2')]
    assert resolve('backbone.layers.1', listed).path == 'backbone.layers.1.2'
    merged = [Candidate('s.1.blocks.0', [(2, 16, 8)]), Candidate('s.1.blocks.1.ffn', [(2, 16, 8)]),
              Candidate('s.1.blocks.1', [(2, 16, 8)]), Candidate('s.1.downsample', [(2, 4, 16)]),
              Candidate('s.1', [(2, 4, 16), (2, 16, 8)])]
    assert resolve('s.1', merged).path == 's.1.blocks.1'
    assert resolve('s.2', merged) is None


def test_series_are_the_largest_numbered_parts():
    net = nn.Module()
    net.conv1, net.conv2 = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
    net.stages = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
    assert find_series(net) == ['stages.0', 'stages.1', 'stages.2']
    assert find_series(nn.Linear(2, 2)) == []


# ---------------------------------------------------------------- recipes
def test_every_recipe_of_the_table_is_a_file_with_taps(repo):
    assert set(RECIPES) == {'mmpretrain', 'mmdet', 'mmseg'}
    for recipes in RECIPES.values():
        for files in recipes.values():
            for file in files:
                recipe = read_recipe(file)
                assert any(stage_of(tap['module']) is not None for tap in recipe.taps.values()), file
                assert all(tap is not None for tap in recipe.taps.values())
    assert (repo / 'configs' / '_base_').samefile(BASES)


def test_small_data_waits_until_the_set_is_fitted_and_wrong_labels_do_not():
    assert read_recipe('afan_small_data.py').hook == dict(fit_threshold=0.3)
    assert read_recipe('afan_noisy_labels.py').hook == read_recipe('afan_recipe.py').hook == {}


def test_recipe_is_that_whose_taps_the_model_has():
    two_stages = ['backbone.layer2', 'roi_head.bbox_head.shared_fcs']
    assert 'roi' in choose_recipe('mmdet', 'default', two_stages).taps
    assert list(choose_recipe('mmdet', 'default', ['bbox_head']).taps) == ['backbone']
    published = choose_recipe('mmdet', 'published', ['bbox_head'])
    assert published.left_out == {'roi': 'roi_head.bbox_head.shared_fcs'} and list(published.taps) == ['backbone']
    with pytest.raises(ValueError, match="--recipe must be one of .* did you mean 'economy'"):
        choose_recipe('mmseg', 'econmy', [])


# ---------------------------------------------------------------- the command
def test_command_lists_and_recommends(repo, capsys):
    pytest.importorskip('mmpretrain.models', reason='the config is one of mmpretrain')
    config = str(repo / 'configs' / 'mmpretrain' / 'resnet_afan_digits.py')
    main(['taps', config, '--json'])
    rows = {row['module']: row for row in json.loads(capsys.readouterr().out)}
    assert {'backbone.layer1', 'backbone.layer2', 'head.fc'} <= set(rows)
    assert not any('conv' in name for name in rows if name.count('.') > 1)
    assert [name for name, row in rows.items() if row['recommended']] == ['backbone.layer2']
    assert rows['backbone.layer1']['batch_norms_after'] > rows['backbone.layer2']['batch_norms_after'] > 0
    assert rows['backbone.layer1']['cost'] == 1 + rows['backbone.layer1']['tau']
    main(['taps', config])
    [line] = [line for line in capsys.readouterr().out.splitlines() if '<- recommended' in line]
    assert line.startswith('backbone.layer2')
