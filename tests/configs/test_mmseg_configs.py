"""Every segmentation config changes what it says and nothing else, builds, and trains a step."""
from __future__ import annotations

import copy
import functools
import glob
import os.path as osp

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg', reason='the configs are for segmentation')

from mmengine.config import Config  # noqa: E402
from mmengine.optim import build_optim_wrapper  # noqa: E402
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import mmafan  # noqa: E402
from mmafan.analysis import load_batches  # noqa: E402
from mmafan.config import AFANConfig  # noqa: E402
from mmafan.models import AFANModelMixin  # noqa: E402

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
FOLDER = osp.join(ROOT, 'configs', 'mmseg')

DEFAULTS = ['_base_/default_runtime.py', '_base_/schedules/schedule_20k.py']
D8 = '_base_/models/deeplabv3plus_r50-d8.py'
VOC12, CITYSCAPES = (f'_base_/datasets/{name}.py' for name in ('pascal_voc12', 'cityscapes'))
VOC_AUG = ['deeplabv3plus/deeplabv3plus_r50-d8_4xb4-20k_voc12aug-512x512.py']
STOCK = {
    'deeplabv3plus_r50-d8_afan_voc12-512x512.py': [D8, VOC12, *DEFAULTS],
    'deeplabv3plus_r101-d8_afan_voc12-512x512.py': [D8, VOC12, *DEFAULTS],
    'deeplabv3plus_r50-d8_afan_voc12aug-512x512.py': VOC_AUG,
    'deeplabv3plus_r101-d8_afan_voc12aug-512x512.py': [VOC_AUG[0].replace('r50', 'r101')],
    'deeplabv3plus_r50-d8_afan-economy_voc12aug-512x512.py': VOC_AUG,
    'deeplabv3plus_r50-d8_afan_cityscapes-512x1024.py': [
        'deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py'],
    'deeplabv3plus_r101-d8_afan_cityscapes-512x1024.py': [
        'deeplabv3plus/deeplabv3plus_r101-d8_4xb2-40k_cityscapes-512x1024.py'],
    'deeplabv3plus_r50-d16_afan-published_voc12-513x513.py': [D8, VOC12, *DEFAULTS],
    'deeplabv3plus_r101-d16_afan-published_voc12-513x513.py': [D8, VOC12, *DEFAULTS],
    'deeplabv3plus_r50-d16_afan-published_cityscapes-768x768.py': [D8, CITYSCAPES, *DEFAULTS],
    'pspnet_r50-d8_afan_cityscapes-512x1024.py': [
        'pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'],
    'segformer_mit-b0_afan_ade20k-512x512.py': ['segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'],
    'upernet_swin-tiny_afan_ade20k-512x512.py': [
        'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'],
    'mask2former_r50_afan_cityscapes-512x1024.py': [
        'mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py'],
}
DEFAULT, ECONOMY = (f'deeplabv3plus_r50-d8_{kind}_voc12aug-512x512.py' for kind in ('afan', 'afan-economy'))
ALIKE = [name for name in STOCK if 'r101' in name or name.startswith(  # made narrow, they differ in their data alone
    ('deeplabv3plus_r50-d8_afan_voc12-', 'deeplabv3plus_r50-d8_afan_cityscapes'))]
PUBLISHED = [name for name in STOCK if 'published' in name]  # VOC with R50, VOC with R101, Cityscapes
MASK2FORMER = 'mask2former_r50_afan_cityscapes-512x1024.py'
BACKBONE_TAPS = {
    'mask2former': 'backbone.layer3', 'pspnet': 'backbone.layer3', 'segformer': 'backbone.layers.1.2',
    'upernet': 'backbone.stages.1.blocks.1', 'deeplabv3plus': 'backbone.layer3'
}

SWITCH = {'model.type', 'model.afan', 'custom_imports', 'custom_hooks', 'afan_recipe'}
R101 = {'model.pretrained', 'model.backbone.depth'}
SIZE = {'data_preprocessor.size', 'model.data_preprocessor.size'}
CLASSES21 = {'model.decode_head.num_classes', 'model.auxiliary_head.num_classes'}
NETWORK = {
    'norm_cfg.type', 'model.pretrained', 'model.auxiliary_head', 'model.decode_head.loss_decode.avg_non_ignore',
    *(f'model.backbone.{key}' for key in ('type', 'strides', 'dilations', 'norm_cfg.type', 'norm_cfg.momentum')),
    *(f'model.decode_head.{key}' for key in ('channels', 'dilations', 'norm_cfg.type'))
}
SCHEDULE = {
    'optimizer.weight_decay', 'optim_wrapper.optimizer.weight_decay', 'optim_wrapper.paramwise_cfg', 'max_iters',
    'param_scheduler', 'train_cfg.max_iters', 'train_cfg.val_interval', 'default_hooks.checkpoint.interval',
    'crop_size', 'train_pipeline', 'train_dataloader.dataset.pipeline'
}
PUBLISHED_VOC = NETWORK | SCHEDULE | SIZE | {'model.decode_head.num_classes'}
CHANGES = {  # beside SWITCH
    'deeplabv3plus_r50-d8_afan_voc12-512x512.py': SIZE | CLASSES21,
    'deeplabv3plus_r101-d8_afan_voc12-512x512.py': SIZE | CLASSES21 | R101,
    'deeplabv3plus_r50-d16_afan-published_voc12-513x513.py': PUBLISHED_VOC,
    'deeplabv3plus_r101-d16_afan-published_voc12-513x513.py': PUBLISHED_VOC | R101,
    'deeplabv3plus_r50-d16_afan-published_cityscapes-768x768.py': NETWORK | SCHEDULE | SIZE | {
        'optimizer.lr', 'optim_wrapper.optimizer.lr', 'train_dataloader.batch_size'},
}
ONE_PER_BASE = [DEFAULT, ECONOMY, PUBLISHED[0], PUBLISHED[2], 'segformer_mit-b0_afan_ade20k-512x512.py']
FULL_SIZE = [
    'deeplabv3plus_r101-d8_afan_voc12aug-512x512.py', 'deeplabv3plus_r50-d16_afan-published_cityscapes-768x768.py',
    'pspnet_r50-d8_afan_cityscapes-512x1024.py', 'upernet_swin-tiny_afan_ade20k-512x512.py', MASK2FORMER
]


def needs_mmdet(names, slow=()):
    return [pytest.param(name, marks=[*[pytest.mark.usefixtures('query_head')] * (name == MASK2FORMER),
                                      *[pytest.mark.slow] * (name in slow)]) for name in names]


@pytest.fixture
def query_head():
    pytest.importorskip('mmdet', reason='the query-based head is made of parts of mmdet')
    pytest.importorskip('mmcv.ops', reason='its pixel decoder needs mmcv with its operators')


@functools.lru_cache(maxsize=None)
def read_once(name):
    return Config.fromfile(osp.join(FOLDER, name))


def read(name):
    return copy.deepcopy(read_once(name))


def read_text(text, tmp_path):
    path = tmp_path / 'child.py'
    path.write_text(text)
    return Config.fromfile(str(path))


def build(cfg, device='cpu'):
    init_default_scope('mmseg')
    cfg.model.pop('pretrained', None)
    cfg.model.backbone.pop('init_cfg', None)
    with torch.device(device):
        return MODELS.build(cfg.model)


def recipe(cfg):
    return AFANConfig.from_dict(cfg.model.afan.to_dict())


def changed_keys(new, old, prefix=''):
    """Dotted keys whose values differ or that only one of two nested dicts has."""
    found = set()
    for key in (set(new) | set(old)) - {'_scope_'}:
        a, b, path = new.get(key), old.get(key), f'{prefix}{key}'
        if key in new and key in old and isinstance(a, dict) and isinstance(b, dict):
            found |= changed_keys(a, b, f'{path}.')
        elif key not in new or key not in old or a != b:
            found.add(path)
    return found


def narrow(cfg):
    """The same modules with fewer channels, queries and blocks: a CPU is done in a second."""
    backbone, head, auxiliary = (cfg.model.get(key) or {} for key in ('backbone', 'decode_head', 'auxiliary_head'))
    if 'ResNet' in backbone.type:
        backbone.update(base_channels=8, stem_channels=8)
        for part in filter(None, (head, auxiliary)):
            width = part.in_channels
            part.in_channels = [n // 8 for n in width] if isinstance(width, list) else width // 8
        if 'c1_channels' in head:
            head.update(c1_in_channels=32, c1_channels=8)
    if 'num_queries' in head:
        head.num_queries = 10
        head.transformer_decoder.num_layers = 2
        head.pixel_decoder.encoder.num_layers = 1
    else:
        head.channels = 16
    if auxiliary:
        auxiliary.channels = 8
    if 'Swin' in backbone.type:
        backbone.depths = [1, 2, 1, 1]
    return cfg


def random_batch(classes, size=64, count=2):
    """What a data loader gives for a segmentor: images of noise, label maps of blocks below ignored rows."""
    from mmseg.structures import SegDataSample
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(classes, (count, 1, size // 16, size // 16), generator=generator)
    labels = blocks.repeat_interleave(16, -1).repeat_interleave(16, -2)
    labels[:, :, :8] = 255
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=dict(
        img_shape=(size, size), ori_shape=(size, size))) for label in labels]
    images = [torch.randint(256, (3, size, size), generator=generator, dtype=torch.uint8) for _ in samples]
    return dict(inputs=images, data_samples=samples)


def train_steps(cfg, steps=1, count=2):
    """Train steps on one batch; returns model, logs and the largest change of a weight by part."""
    cfg.model.data_preprocessor.size = (64, 64)
    torch.manual_seed(0)
    model = build(cfg)
    model.init_weights()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    model.train()
    model.afan.controls.hooked = True  # as AdvFeatureHook does before training
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    batch = random_batch(cfg.model.decode_head.num_classes, count=count)
    logs = [model.train_step(copy.deepcopy(batch), wrapper) for _ in range(steps)]
    change = {}
    for key, p in model.named_parameters():
        part = key.partition('.')[0]
        change[part] = max(change.get(part, 0.0), float((p.detach() - before[key]).abs().max()))
    return model, logs, change


def check_step(cfg):
    model, [log], change = train_steps(cfg)
    for tap, config in model.afan.config.taps.items():
        prefixes = {key.partition('.')[0] for key in log if key.startswith(f'adv_{tap}_')}
        assert prefixes == {f'adv_{tap}_{index}' for index in range(config.num_passes)}
        kept = {key.partition('.')[2] for key in log if key.startswith(f'adv_{tap}_0.') and 'loss' in key}
        heads = {key.partition('.')[0] for key in kept}
        both = tap == 'backbone' and cfg.model.get('auxiliary_head')
        assert heads == ({'decode', 'aux'} if both else {'decode'})
    assert all(bool(torch.isfinite(torch.as_tensor(value)).all()) for value in log.values())
    assert all(value > 0 for value in change.values()), change
    assert set(change) >= {'backbone', 'decode_head'}


def test_the_list_above_is_what_the_folder_holds():
    found = [osp.basename(path) for path in glob.glob(osp.join(FOLDER, '*.py'))]
    demo = [name for name in found if name.endswith('_digits.py') or '_r18-' in name]  # on small data sets
    assert sorted(set(found) - set(demo)) == sorted(STOCK)
    assert len(STOCK) == 14 and len(PUBLISHED) == 3


@pytest.fixture(scope='module')
def stock_of(tmp_path_factory):
    @functools.lru_cache(maxsize=None)
    def of(bases):
        return read_text(f'_base_ = {[f"mmseg::{path}" for path in bases]}\n', tmp_path_factory.mktemp('stock'))

    return lambda name: of(tuple(STOCK[name]))


@pytest.mark.parametrize('name', STOCK)
def test_differs_from_its_stock_configs_in_nothing_but_what_is_named(name, stock_of):
    assert changed_keys(read(name), stock_of(name)) == SWITCH | CHANGES.get(name, set())


@pytest.mark.parametrize('name', needs_mmdet(STOCK))
def test_builds_with_its_taps(name):
    cfg = read(name)
    assert cfg.custom_imports['imports'] == ['mmafan']
    assert [hook['type'] for hook in cfg.custom_hooks] == ['mmafan.AdvFeatureHook']
    transformer = name.startswith(('segformer', 'upernet'))  # reads numbers from tensors while it is built
    model = build(narrow(cfg)) if transformer else build(cfg, 'meta')  # a tap that does not exist is refused here
    assert isinstance(model, AFANModelMixin) and type(model).__name__ == 'AFANEncoderDecoder'
    taps = {tap: config.module for tap, config in model.afan.config.taps.items()}
    backbone = 'backbone.layer2' if 'published_city' in name else BACKBONE_TAPS[name.partition('_')[0]]
    assert taps.pop('backbone') == backbone
    if 'published_city' in name:
        assert taps == dict(concatenation='decode_head.sep_bottleneck')
    else:
        assert taps == (dict(aspp='decode_head.bottleneck') if name.startswith('deeplab') else {})
    classes = 21 if 'voc' in name else 19 if 'cityscapes' in name else 150
    heads = [head for head in (model.decode_head, getattr(model, 'auxiliary_head', None)) if head is not None]
    assert {head.num_classes for head in heads} == {classes}
    depth = 101 if 'r101' in name else 50
    if 'ResNet' in cfg.model.backbone.type:
        assert [len(stage) for stage in (model.backbone.layer3, model.backbone.layer4)] == [{50: 6, 101: 23}[depth], 3]


@pytest.mark.parametrize('name', [name for name in STOCK if 'deeplab' in name])
def test_pretrained_weights_are_those_of_the_depth(name):
    depth = 101 if 'r101' in name else 50
    expected = f'torchvision://resnet{depth}' if name in PUBLISHED else f'open-mmlab://resnet{depth}_v1c'
    assert read(name).model.pretrained == expected


@pytest.mark.parametrize('name', STOCK)
def test_weights_of_clean_and_adversarial_terms_sum_to_one(name):
    config = recipe(read(name))
    terms = sum(tap.weight[0] * tap.num_passes for tap in config.taps.values())
    assert config.clean_weight + terms == pytest.approx(1)


@pytest.mark.parametrize('name', sorted(set(STOCK) - set(PUBLISHED)))
def test_default_recipe(name):
    config = recipe(read(name))
    backbone = config.taps['backbone']
    assert (backbone.strengths, backbone.reinject) == ((0.5, 1.0), (False, True))
    assert (backbone.strength_sampling, backbone.num_passes, backbone.moments) == ('random', 1, 'channel')
    assert backbone.losses is None and config.batch_norm == 'batch'
    assert all((tap.step_unit, tap.at, tap.num_steps) == ('std', 'output', 1) for tap in config.taps.values())
    assert backbone.fraction == (0.125 if name == ECONOMY else 1)


def test_step_sizes_of_the_default_recipe_are_those_of_one_file():
    base = Config.fromfile(osp.join(ROOT, 'configs', '_base_', 'afan_segmentation.py'))
    expected = AFANConfig.from_dict(base.afan_recipe.to_dict()).taps
    for name in sorted(set(STOCK) - set(PUBLISHED)):
        for tap, config in recipe(read(name)).taps.items():
            assert config.step_size == expected[tap].step_size > 0


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_recipe(name):
    voc = 'voc' in name
    cfg = read(name)
    afan = recipe(cfg)
    backbone = afan.taps['backbone']
    decoder = afan.taps['aspp' if voc else 'concatenation']
    assert len(afan.taps) == 2
    assert (backbone.module, decoder.module, decoder.at) == (
        ('backbone.layer3', 'decode_head.bottleneck', 'output') if voc else
        ('backbone.layer2', 'decode_head.sep_bottleneck', 'input'))
    assert (backbone.step_size, decoder.step_size) == pytest.approx(
        (0.01 / 255, 0.4 / 255) if voc else (0.02 / 255, 1.5 / 255))
    assert (backbone.strengths, decoder.strengths) == ((0.5, 1.0), (1.0, ))
    assert (backbone.reinject, decoder.reinject) == (
        ((True, True), (False, )) if voc else ((False, True), (True, )))
    assert (afan.clean_weight, backbone.weight, decoder.weight) == (0.7, (0.1, 0.1), (0.1, ))
    for tap in (backbone, decoder):
        assert (tap.num_steps, tap.step_unit, tap.moments, tap.strength_sampling) == (1, 'absolute', 'channel', 'all')
        assert tap.radius is None and not tap.random_start and tap.fraction == 1 and tap.losses is None
    assert afan.batch_norm == 'shared'


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_network(name):
    model = build(read(name), 'meta')
    backbone, head = model.backbone, model.decode_head
    assert not model.with_auxiliary_head
    assert backbone.conv1.kernel_size == (7, 7)  # one convolution as stem
    sizes = [feature.shape[1:] for feature in backbone(torch.zeros(1, 3, 64, 64, device='meta'))]
    assert sizes == [(256, 16, 16), (512, 8, 8), (1024, 4, 4), (2048, 4, 4)]  # stride 16
    assert [block.conv2.dilation for block in backbone.layer4] == [(1, 1), (2, 2), (2, 2)]
    convs = [next(m for m in branch.modules() if isinstance(m, nn.Conv2d)) for branch in head.aspp_modules]
    assert [conv.dilation[0] for conv in convs] == [1, 6, 12, 18]
    assert head.bottleneck.conv.out_channels == 256 and head.dropout.p == 0.1
    assert (head.c1_bottleneck.conv.in_channels, head.c1_bottleneck.conv.out_channels) == (256, 48)
    for part, momentum in ((backbone, 0.01), (head, 0.1)):
        norms = [m for m in part.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        assert norms and {norm.momentum for norm in norms} == {momentum}
        assert not any(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    loss = head.loss_decode
    assert loss.loss_weight == 1 and loss.avg_non_ignore and head.ignore_index == 255


@pytest.mark.parametrize('name', PUBLISHED[::2])
def test_published_optimizer_and_learning_rate(name):
    cfg = read(name)
    lr = 0.01 if 'voc' in name else 0.1
    assert (cfg.train_dataloader.batch_size, cfg.train_cfg.max_iters) == (4, 30000)
    model = build(narrow(read(name)), 'meta')
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer) is torch.optim.SGD
    names = {id(p): key for key, p in model.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        assert (group['momentum'], group['weight_decay']) == (0.9, 1e-4)
        for parameter in group['params']:
            found.setdefault(names[id(parameter)].partition('.')[0], set()).add(round(group['lr'], 9))
    assert found == dict(backbone={round(0.1 * lr, 9)}, decode_head={lr})

    schedulers = [PARAM_SCHEDULERS.build(s, default_args=dict(optimizer=optimizer)) for s in cfg.param_scheduler]
    start = [group['lr'] for group in optimizer.param_groups]
    rates = []
    for _ in range(300):  # the first per cent
        rates.append([group['lr'] for group in optimizer.param_groups])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    share = 1 - np.arange(300)[:, None] / 30000
    np.testing.assert_allclose(rates, np.maximum(np.array(start) * share**0.9, 1e-6), rtol=1e-4)


@pytest.mark.parametrize('name', PUBLISHED[::2])
def test_published_learning_rate_to_the_end(name):
    cfg = read(name)
    lr = cfg.optim_wrapper.optimizer.lr
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr)
    [scheduler] = [PARAM_SCHEDULERS.build(s, default_args=dict(optimizer=optimizer)) for s in cfg.param_scheduler]
    rates = []
    for _ in range(30000):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    published = np.maximum(lr * (1 - np.arange(30000) / 30000)**0.9, 1e-6)
    np.testing.assert_allclose(rates, published, atol=1e-4 * lr)


@functools.lru_cache(maxsize=None)
def forward_flops(name, size):
    """Floating-point operations of the training forward by module, without computing anything."""
    model = build(read(name), 'meta').eval()
    with FlopCounterMode(model, display=False, depth=3) as counter, torch.no_grad():
        features = model.backbone(torch.zeros(1, 3, *size, device='meta'))
        model.decode_head(features)
        model.auxiliary_head(features)
    return {key: sum(counts.values()) for key, counts in counter.get_flop_counts().items()}


def test_economy_costs_at_most_a_fifth_in_theory():
    """The backward of a module costs about twice its forward: shares of forwards are shares of steps."""
    flops = forward_flops(ECONOMY, (512, 512))
    taps = recipe(read(ECONOMY)).taps
    total, backbone, head, auxiliary = (
        flops[key] for key in ('Global', 'ResNetV1c', 'DepthwiseSeparableASPPHead', 'FCNHead'))
    assert total == backbone + head + auxiliary
    after_layer3 = (flops['ResNetV1c.layer4'] + head + auxiliary) / total
    after_aspp = sum(flops[f'DepthwiseSeparableASPPHead.{key}']
                     for key in ('c1_bottleneck', 'sep_bottleneck', 'conv_seg')) / total
    assert 0.75 < after_layer3 < 0.85 and 0.04 < after_aspp < 0.07
    assert 1.1 < 1 + taps['backbone'].fraction * after_layer3 + taps['aspp'].fraction * after_aspp <= 1.2


@pytest.mark.parametrize('name', needs_mmdet(STOCK, slow=ALIKE))
def test_trains_a_step_with_every_adversarial_term(name):
    """With fewer channels; the slow test below trains some at their full size."""
    cfg = narrow(read(name))
    if name == ECONOMY:
        for tap in cfg.model.afan.taps.values():
            tap.fraction = 1.0  # its own rhythm is the next test's
    check_step(cfg)


@pytest.mark.slow
@pytest.mark.parametrize('name', needs_mmdet(FULL_SIZE))
def test_trains_a_step_at_full_size(name):
    check_step(read(name))


def test_economy_perturbs_two_of_four_images_in_every_fourth_step():
    _, logs, _ = train_steps(narrow(read(ECONOMY)), steps=8, count=4)
    ratios = [float(log['adv_backbone_0.decode.loss_ce'] / log['decode.loss_ce'])
              for log in logs if 'adv_backbone_0.decode.loss_ce' in log]
    assert len(ratios) == 2
    assert ratios == pytest.approx([4 * 0.1 / 0.8] * 2, rel=0.3)  # a fourth of the steps counts four times
    assert sum('adv_aspp_0.decode.loss_ce' in log for log in logs) == 4  # two of four images in every second step


def test_naming_the_losses_of_the_aspp_tap_would_change_no_loss():
    """No other loss depends on it, so the recipe leaves the names out, and the attack needs no backward of its own."""
    logs = []
    for losses in (None, ('decode.*', )):
        cfg = narrow(read(DEFAULT))
        cfg.model.afan.taps.aspp.losses = losses
        logs.append(train_steps(cfg)[1][0])
    keys = [{key for key in log if 'loss' in key} for log in logs]
    assert keys[0] == keys[1] and 'adv_aspp_0.decode.loss_ce' in keys[0]
    for key in keys[0]:
        assert float(logs[0][key]) == pytest.approx(float(logs[1][key]), rel=1e-5)


def test_readme_example_attacks_one_loss_and_keeps_both(tmp_path):
    with open(osp.join(FOLDER, 'README.md')) as file:
        text = file.read()
    start = text.index("_base_ = [__import__('mmafan') and 'mmafan::mmseg/")
    example = text[start:text.index('```', start)]
    cfg = read_text(example, tmp_path)
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 7
    taps = recipe(cfg).taps
    assert list(taps) == ['backbone'] and taps['backbone'].step_size != recipe(read(DEFAULT)).taps['backbone'].step_size
    assert taps['backbone'].attack_losses == (('decode.loss_ce', ), )
    _, [log], _ = train_steps(narrow(cfg))
    assert {key for key in log if key.startswith('adv_') and 'loss' in key} == {
        'adv_backbone_0.decode.loss_ce', 'adv_backbone_0.aux.loss_ce'}


@pytest.mark.parametrize('name', ONE_PER_BASE)
def test_written_out_it_reads_the_same(name, tmp_path):
    """The runner keeps a copy of the config in one file, for testing and resuming."""
    cfg = read(name)
    again = read_text(cfg.pretty_text, tmp_path)
    assert changed_keys(again, cfg) == set()


@pytest.mark.parametrize('name', ONE_PER_BASE)
def test_as_a_base_one_field_of_one_tap_can_be_overridden(name, tmp_path):
    before = recipe(read(name)).taps
    *others, tap = before
    cfg = read_text(f"_base_ = 'mmafan::mmseg/{name}'\n"
                    f'model = dict(afan=dict(taps=dict({tap}=dict(step_size=0.7))))\n', tmp_path)
    after = recipe(cfg).taps
    assert after[tap].step_size == 0.7 != before[tap].step_size
    assert vars(after[tap]) == {**vars(before[tap]), 'step_size': 0.7}
    assert all(after[other] == before[other] for other in others)


def write_voc(folder):
    """VOC2012 with one image in each split, which is nothing but class 15 (person)."""
    import cv2
    root = folder / 'data' / 'VOCdevkit' / 'VOC2012'
    for part in ('JPEGImages', 'SegmentationClass', 'SegmentationClassAug', 'ImageSets/Segmentation'):
        (root / part).mkdir(parents=True)
    for split in ('train', 'aug', 'val'):
        labels = 'SegmentationClassAug' if split == 'aug' else 'SegmentationClass'
        cv2.imwrite(str(root / 'JPEGImages' / f'{split}.jpg'), np.full((375, 500, 3), 128, np.uint8))
        cv2.imwrite(str(root / labels / f'{split}.png'), np.full((375, 500), 15, np.uint8))
        (root / 'ImageSets' / 'Segmentation' / f'{split}.txt').write_text(f'{split}\n')


@pytest.mark.parametrize('name, splits, sides', [
    ('deeplabv3plus_r101-d8_afan_voc12-512x512.py', {'train'}, (341, 512)),
    ('deeplabv3plus_r50-d8_afan_voc12aug-512x512.py', {'train', 'aug'}, (341, 512)),
    ('deeplabv3plus_r50-d16_afan-published_voc12-513x513.py', {'train'}, (250, 513)),
])
def test_voc_data_of_its_splits(name, splits, sides, tmp_path, monkeypatch):
    from mmseg.registry import DATASETS
    write_voc(tmp_path)
    monkeypatch.chdir(tmp_path)
    cfg = read(name)
    batches = load_batches(cfg, 8, 2)
    inputs = [image for batch in batches for image in batch['inputs']]
    samples = [sample for batch in batches for sample in batch['data_samples']]
    assert {osp.splitext(osp.basename(sample.img_path))[0] for sample in samples} == splits
    low, high = sides
    assert all(low <= image.shape[2] <= high and image.shape[1] <= high for image in inputs)
    init_default_scope('mmseg')
    data = MODELS.build(cfg.model.data_preprocessor)(batches[0], training=True)
    assert data['inputs'].shape == (2, 3, *cfg.crop_size)
    labels = torch.stack([sample.gt_sem_seg.data for sample in data['data_samples']])
    assert labels.shape == (2, 1, *cfg.crop_size) and set(labels.unique().tolist()) <= {15, 255}
    test = DATASETS.build(cfg.test_dataloader.dataset)
    assert len(test) == 1 and test.get_data_info(0)['img_path'].endswith('val.jpg')


def test_published_voc_images_scale_by_a_factor_of_their_own_size(tmp_path, monkeypatch):
    from mmseg.registry import TRANSFORMS
    init_default_scope('mmseg')
    [resize] = [step for step in read(PUBLISHED[0]).train_pipeline if step.type == 'RandomResize']
    transform = TRANSFORMS.build(resize)
    np.random.seed(0)
    factors = []
    for _ in range(200):
        shape = transform(dict(img=np.zeros((375, 500, 3), np.uint8), img_shape=(375, 500)))['img'].shape
        assert shape[0] / shape[1] == pytest.approx(0.75, abs=0.01)
        factors.append(shape[1] / 500)
    assert 0.5 <= min(factors) < 0.55 and 1.95 < max(factors) <= 2


def test_published_cityscapes_crops_are_not_rescaled(tmp_path, monkeypatch):
    import cv2
    for part, value in (('leftImg8bit', 100), ('gtFine', 3)):
        root = tmp_path / 'data' / 'cityscapes' / part / 'train' / 'a'
        root.mkdir(parents=True)
        suffix = '_leftImg8bit.png' if part == 'leftImg8bit' else '_gtFine_labelTrainIds.png'
        shape = (1024, 2048, 3) if part == 'leftImg8bit' else (1024, 2048)
        cv2.imwrite(str(root / f'one{suffix}'), np.full(shape, value, np.uint8))
    monkeypatch.chdir(tmp_path)
    name = 'deeplabv3plus_r50-d16_afan-published_cityscapes-768x768.py'
    cfg = read(name)
    assert not any('Resize' in step.type for step in cfg.train_pipeline)
    [batch] = load_batches(cfg, 1, 1)
    [image], [sample] = batch['inputs'], batch['data_samples']
    assert image.shape == (3, 768, 768) and sample.gt_sem_seg.data.unique().tolist() == [3]


def test_metafile_and_readme_list_every_config_and_claim_no_result():
    import yaml
    with open(osp.join(ROOT, 'model-index.yml')) as file:
        assert 'configs/mmseg/metafile.yml' in yaml.safe_load(file)['Import']
    with open(osp.join(FOLDER, 'metafile.yml')) as file:
        meta = yaml.safe_load(file)
    collections = {c['Name'] for c in meta['Collections']}
    for folder in ('mmpretrain', 'mmdet'):
        with open(osp.join(ROOT, 'configs', folder, 'metafile.yml')) as file:
            other = yaml.safe_load(file)
        assert not collections & {c['Name'] for c in other['Collections']}  # mim keeps one list of all
    assert sorted(m['Config'] for m in meta['Models']) == sorted(f'configs/mmseg/{n}' for n in STOCK)
    with open(osp.join(FOLDER, 'README.md')) as file:
        readme = file.read()
    for model in meta['Models']:
        name = model['Name']
        assert model['In Collection'] in collections
        assert name == osp.splitext(osp.basename(model['Config']))[0]
        data = 'VOC2012' if 'voc' in name else 'Cityscapes' if 'cityscapes' in name else 'ADE20K'
        assert data in model['Metadata']['Training Data']
        assert ('augmented' in model['Metadata']['Training Data']) == ('voc12aug' in name)
        assert 'Results' not in model and 'Weights' not in model
        grouped = name.replace('_r50-', '_{r50,r101}-').replace('_r101-', '_{r50,r101}-')
        assert f'`{name}`' in readme or f'`{grouped}`' in readme


def test_package_carries_the_configs():
    folder = osp.join(osp.dirname(mmafan.__file__), '.mim', 'configs', 'mmseg')
    assert osp.realpath(folder) == osp.realpath(FOLDER)
