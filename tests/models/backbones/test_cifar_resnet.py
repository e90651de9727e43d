"""The 6n + 2 ResNet: size, maps, shortcut, names, and that it is imported only on demand."""
from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip('mmpretrain', reason='the backbone subclasses one of mmpretrain')

from mmengine.registry import MODELS as ROOT_MODELS  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402

from mmafan.models.backbones import CIFARResNet  # noqa: E402
from mmafan.models.backbones.cifar_resnet import SubsampledShortcut  # noqa: E402
from mmafan.registry import MODELS  # noqa: E402


def count_by_hand(depth, num_classes=10):
    """Parameters of the network of He et al. 2015, section 4.2, from its description alone."""
    n = (depth - 2) // 6
    total = 3 * 16 * 9 + 2 * 16  # the first convolution and its norm
    before = 16
    for width in (16, 32, 64):
        for _ in range(n):
            total += before * width * 9 + 2 * width  # shortcuts have none
            total += width * width * 9 + 2 * width
            before = width
    return total + 64 * num_classes + num_classes


def shortcut_by_hand(x, width):
    """Option A on a NumPy array: strided subsampling, zeros on both sides of the channels."""
    n, c, h, w = x.shape
    out = np.zeros((n, width, (h + 1) // 2, (w + 1) // 2), x.dtype)
    first = (width - c) // 2
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            out[:, first:first + c, i, j] = x[:, :, 2 * i, 2 * j]
    return out


# Millions of parameters as printed in table 6 of the paper.
@pytest.mark.parametrize('depth, millions', [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85),
                                             (110, 1.7)])
def test_number_of_parameters(depth, millions):
    net = CIFARResNet(depth=depth)
    count = sum(p.numel() for p in net.parameters()) + 64 * 10 + 10
    assert count == count_by_hand(depth)
    assert round(count / 1e6, 1 if depth == 110 else 2) == millions


@pytest.mark.parametrize('depth', [20, 56])
def test_depth_counts_layers_with_weights(depth):
    net = CIFARResNet(depth=depth)
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) + 1 == depth  # and the linear classifier
    assert {m.kernel_size for m in convolutions} == {(3, 3)}


def test_shapes_of_all_stages():
    net = CIFARResNet(depth=20, out_indices=(0, 1, 2))
    shapes = [tuple(out.shape) for out in net(torch.zeros(2, 3, 32, 32))]
    assert shapes == [(2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8)]


@pytest.mark.parametrize('size', [(8, 8), (7, 5)])
def test_shortcut_equals_numpy(size):
    x = torch.randn(2, 4, *size)
    out = SubsampledShortcut(4, 8)(x)
    np.testing.assert_array_equal(out.numpy(), shortcut_by_hand(x.numpy(), 8))


def test_first_block_of_a_stage_adds_the_shortcut():
    net = CIFARResNet(depth=20)
    net.eval()
    block = net.layer2[0]
    x = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        residual = block.norm2(block.conv2(torch.relu(block.norm1(block.conv1(x)))))
        expected = np.maximum(residual.numpy() + shortcut_by_hand(x.numpy(), 32), 0)
        np.testing.assert_allclose(block(x).numpy(), expected, rtol=1e-5, atol=1e-6)
    assert net.layer1[0].downsample is None


def test_state_dict_has_the_names_of_the_stock_backbone_and_no_shortcut():
    keys = CIFARResNet(depth=20).state_dict()
    assert {k.partition('.')[0] for k in keys} == {'conv1', 'bn1', 'layer1', 'layer2', 'layer3'}
    assert not any('downsample' in k for k in keys)


def test_initialisation_has_the_variance_of_the_paper():
    net = CIFARResNet(depth=110)
    net.init_weights()
    for conv in (net.layer2[3].conv1, net.layer3[3].conv2):
        fan_in = conv.weight[0].numel()
        assert float(conv.weight.detach().std()) == pytest.approx((2 / fan_in)**0.5, rel=0.02)
    assert float(net.layer3[0].bn2.weight.detach().min()) == 1.0


@pytest.mark.parametrize('depth', [18, 50, 57, '56'])
def test_wrong_depth_is_one_sentence(depth):
    message = r'CIFARResNet\.depth must be one of \(20, 32, 44, 56, 110\)'
    with pytest.raises(ValueError, match=message):
        CIFARResNet(depth=depth)


def test_shortcut_with_odd_number_of_new_channels_is_refused():
    with pytest.raises(ValueError, match='in_channels=4 plus an even number, got 7'):
        SubsampledShortcut(4, 7)


def test_is_built_by_name_from_the_scope_of_mmpretrain():
    assert MODELS.get('CIFARResNet') is CIFARResNet
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        assert type(ROOT_MODELS.build(dict(type='mmafan.CIFARResNet', depth=20))) is CIFARResNet


def test_importing_mmafan_imports_no_codebase():
    code = ("import sys, mmafan, mmafan.models.backbones\n"
            "print([m for m in ('mmpretrain', 'mmdet', 'mmseg') if m in sys.modules])")
    done = subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, check=True,
                          text=True)
    assert done.stdout.strip() == '[]'
