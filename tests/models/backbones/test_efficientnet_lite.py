"""EfficientNet-Lite0: its size, what it lacks, and the weights of the package that has them."""
from __future__ import annotations

import pytest
import torch

pytest.importorskip('mmpretrain', reason='the backbone subclasses one of mmpretrain')

from mmpretrain.models.backbones import EfficientNet  # noqa: E402
from mmpretrain.models.utils import SELayer  # noqa: E402

from mmafan.models.backbones import EfficientNetLite  # noqa: E402
from mmafan.registry import MODELS  # noqa: E402


@pytest.fixture(scope='module')
def net():
    return MODELS.build(dict(type='mmafan.EfficientNetLite'))


@pytest.fixture
def converter():
    from mmafan.lab import efficientnet_lite
    return efficientnet_lite


def names_of_the_package(backbone):
    """The names of the package's weights, from those of mmpretrain's blocks."""
    renamed = {}
    parts = dict(expand_conv='_expand_conv', depthwise_conv='_depthwise_conv', linear_conv='_project_conv')
    norms = dict(expand_conv='_bn0', depthwise_conv='_bn1', linear_conv='_bn2')
    blocks = [f'layers.{stage}.{number}' for stage in range(1, 6) for number in range(len(backbone.layers[stage]))]
    for name, value in backbone.state_dict().items():
        place, _, kind = name.rpartition('.')
        is_norm = '.bn' in f'.{place}'
        block = next((one for one in blocks if name.startswith(one + '.')), None)
        if block is None:
            stem = name.startswith('layers.0.')
            new = ('_bn0' if stem else '_bn1') if is_norm else ('_conv_stem' if stem else '_conv_head')
        else:
            part = next(one for one in parts if one in name)
            new = f'_blocks.{blocks.index(block)}.{(norms if is_norm else parts)[part]}'
        renamed[f'{new}.{kind}'] = value
    return {**renamed, '_fc.weight': torch.ones(1000, 1280), '_fc.bias': torch.ones(1000)}


def test_it_has_the_size_that_its_authors_print(net):
    """4.7 million parameters with the linear head of 1000 classes, in the table of tensorflow/tpu's lite models."""
    assert round((sum(p.numel() for p in net.parameters()) + 1281 * 1000) / 1e6, 1) == 4.7


def test_it_has_neither_squeeze_and_excitation_nor_swish(net):
    kinds = {type(module) for module in net.modules()}
    assert SELayer not in kinds and torch.nn.ReLU6 in kinds and not any('wish' in kind.__name__ for kind in kinds)
    assert SELayer in {type(module) for module in EfficientNet().modules()}  # the stock class keeps its settings


def test_weights_of_the_package_come_to_their_layers(net, converter):
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter.fill_(number)
    converted = converter.convert(names_of_the_package(net))
    fresh = EfficientNetLite()
    assert not fresh.load_state_dict(converted, strict=False).unexpected_keys
    for name, parameter in fresh.named_parameters():
        assert torch.equal(parameter, dict(net.named_parameters())[name]), name


def test_weights_of_another_network_are_one_sentence(converter, tmp_path, capsys):
    torch.save(dict(a=torch.ones(1)), tmp_path / 'a.pth')
    with pytest.raises(SystemExit) as end:
        converter.main([str(tmp_path / 'a.pth'), str(tmp_path / 'out.pth')])
    assert end.value.code == 2 and not (tmp_path / 'out.pth').exists()
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("a.pth: the weights must be those of EfficientNet-Lite0, with 245 tensors besides the linear "
                         "head, got 1, of which the first is 'a'")
