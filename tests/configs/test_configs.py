"""Every config is found, parses, inherits what it should, builds, and trains a step."""
from __future__ import annotations

import ast
import glob
import os.path as osp

import numpy as np
import pytest
import torch

pytest.importorskip('mmpretrain', reason='the configs are for classification')

from mmengine.config import Config  # noqa: E402
from mmengine.optim import build_optim_wrapper  # noqa: E402
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope  # noqa: E402

import mmafan  # noqa: E402
from mmafan.analysis import load_batches, random_batches  # noqa: E402
from mmafan.models import AFANModelMixin  # noqa: E402

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
FOLDER = osp.join(ROOT, 'configs', 'mmpretrain')
AFAN = [
    'efficientnet-b0_afan-economy_in1k.py', 'efficientnet-b0_afan_in1k.py',
    'resnet18_afan-economy_cifar10.py', 'resnet18_afan_cifar10-folder.py',
    'resnet18_afan_cifar10.py', 'resnet18_afan_cifar100.py', 'resnet18_afan_in1k.py',
    'resnet50_afan-economy_in1k.py', 'resnet50_afan_cifar10.py', 'resnet50_afan_cifar100.py',
    'resnet50_afan_in1k.py', 'resnet56s_afan-economy_cifar10.py',
    'resnet56s_afan-learned_cifar10.py', 'resnet56s_afan_cifar10.py'
]
BASELINES = ['resnet56s_cifar10.py']
# On data that no codebase has: the demo's digits, a subset of CIFAR-10.
DEMO = ['resnet_afan_digits.py', 'resnet_digits.py', 'resnet14w16_afan_cifar10-tenth.py']
ONE_PER_FAMILY = {  # and the size of its images
    'efficientnet-b0_afan-economy_in1k.py': 64,
    'resnet18_afan-economy_cifar10.py': 32,
    'resnet18_afan_cifar100.py': 32,
    'resnet50_afan_in1k.py': 64,
    'resnet56s_afan-economy_cifar10.py': 16,
    'resnet56s_afan-learned_cifar10.py': 16,
    'resnet56s_afan_cifar10.py': 16,
}


def read(name):
    return Config.fromfile(osp.join(FOLDER, name))


def build(cfg):
    init_default_scope(cfg.default_scope)
    model = dict(cfg.model)
    model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return MODELS.build(model)


def stock_bases(path):
    """Names of the stock configs that a file inherits from, directly or not."""
    with open(path) as file:
        tree = ast.parse(file.read())
    bases = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '_base_':
            value = ast.literal_eval(node.value)
            bases = [value] if isinstance(value, str) else value
    found = []
    for base in bases:
        found += [base] if '::' in base else stock_bases(osp.join(osp.dirname(path), base))
    return found


def train_step(cfg, model, batch):
    """One step as the runner makes it; returns log and largest change of a weight by part."""
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    model.train()
    model.afan.controls.hooked = True  # as AdvFeatureHook does before training
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    log = model.train_step(batch, wrapper)
    change = {}
    for name, p in model.named_parameters():
        part = name.partition('.')[0]
        change[part] = max(change.get(part, 0.0), float((p.detach() - before[name]).abs().max()))
    return log, change


def test_the_list_above_is_what_the_folder_holds():
    found = [osp.basename(path) for path in glob.glob(osp.join(FOLDER, '*.py'))]
    assert sorted(found) == sorted(AFAN + BASELINES + DEMO)
    assert len(AFAN) == 14


@pytest.mark.parametrize('name', AFAN + BASELINES)
def test_inherits_one_stock_config(name):
    bases = stock_bases(osp.join(FOLDER, name))
    assert len(bases) == 1 and bases[0].startswith('mmpretrain::')


@pytest.mark.parametrize('name', AFAN)
def test_builds_with_its_taps(name):
    cfg = read(name)
    assert cfg.custom_imports['imports'] == ['mmafan']
    assert [hook['type'] for hook in cfg.custom_hooks] == ['mmafan.AdvFeatureHook']
    model = build(cfg)  # a tap that does not exist is refused here
    assert isinstance(model, AFANModelMixin) and type(model).__name__ == 'AFANImageClassifier'
    modules = dict(model.named_modules())
    assert all(tap.module in modules for tap in model.afan.config.taps.values())
    classes = 100 if 'cifar100' in name else 1000 if 'in1k' in name else 10
    assert model.head.fc.out_features == cfg.data_preprocessor.num_classes == classes


@pytest.mark.parametrize('name', AFAN)
def test_weights_of_clean_and_adversarial_terms(name):
    """Ours leave what comes before the tap its gradient; the published ones sum to 1."""
    config = build(read(name)).afan.config
    terms = sum(tap.weight[0] * tap.num_passes for tap in config.taps.values())
    assert (config.clean_weight, terms) == pytest.approx((0.5, 0.5) if '56s' in name else (1, 0.5))


@pytest.mark.parametrize('name', AFAN + BASELINES)
def test_is_found_by_name_as_a_base(name, tmp_path):
    child = tmp_path / 'child.py'
    child.write_text(f"_base_ = 'mmafan::mmpretrain/{name}'\nlog_level = 'ERROR'\n")
    cfg = Config.fromfile(str(child))
    assert cfg.log_level == 'ERROR'
    assert type(build(cfg)) is type(build(read(name)))


@pytest.mark.parametrize('name', sorted(ONE_PER_FAMILY))
def test_trains_a_step_with_every_adversarial_term(name):
    cfg = read(name)
    torch.manual_seed(0)
    model = build(cfg)
    [batch] = random_batches(cfg, 1, 4, ONE_PER_FAMILY[name])
    log, change = train_step(cfg, model, batch)
    expected = {'loss', *(f'adv_{tap}_0.loss' for tap in cfg.model.afan.taps)}
    assert expected <= set(log)
    assert all(bool(torch.isfinite(value)) for value in log.values())
    assert change['backbone'] > 0 and change['head'] > 0


def test_one_field_of_one_tap_can_be_overridden(tmp_path):
    child = tmp_path / 'child.py'
    child.write_text("_base_ = 'mmafan::mmpretrain/resnet18_afan_cifar10.py'\n"
                     'model = dict(afan=dict(taps=dict(backbone=dict(step_size=0.7))))\n')
    taps = build(Config.fromfile(str(child))).afan.config.taps
    before = build(read('resnet18_afan_cifar10.py')).afan.config.taps
    assert taps['backbone'].step_size == 0.7 and before['backbone'].step_size == 0.01
    assert taps['backbone'].strengths == before['backbone'].strengths


def test_published_recipe():
    cfg = read('resnet56s_afan_cifar10.py')
    optimizer = cfg.optim_wrapper.optimizer
    assert [optimizer[k] for k in ('type', 'lr', 'momentum', 'weight_decay')] == [
        'SGD', 0.1, 0.9, 5e-4]
    assert (cfg.train_dataloader.batch_size, cfg.train_cfg.max_epochs) == (128, 200)
    afan = build(cfg).afan.config
    tap = afan.taps['backbone']
    assert (tap.module, tap.num_steps, tap.step_unit) == ('backbone.layer1', 5, 'absolute')
    assert tap.step_size == 0.5 / 255 and tap.strengths == (1.0, ) and tap.reinject == (False, )
    assert (tap.weight, afan.clean_weight, afan.batch_norm) == ((0.5, ), 0.5, 'shared')
    assert tap.radius is None and not tap.random_start


def test_published_learning_rate():
    cfg = read('resnet56s_afan_cifar10.py')
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    length = 10
    schedulers = [PARAM_SCHEDULERS.build(s, default_args=dict(optimizer=optimizer,
                                                              epoch_length=length))
                  for s in cfg.param_scheduler]
    rates = []
    for _ in range(200):
        for _ in range(length):
            rates.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            schedulers[0].step()
        schedulers[1].step()
    first = rates[:length]
    assert rates[0] == pytest.approx(1e-5) and first == sorted(first)
    np.testing.assert_allclose(np.diff(first), np.diff(first)[0], rtol=1e-6)  # linear
    by_epoch = rates[::length]
    assert by_epoch[1:50] == pytest.approx([0.1] * 49)
    assert by_epoch[50:150] == pytest.approx([0.01] * 100)
    assert by_epoch[150:] == pytest.approx([0.001] * 50)


def test_learned_recipe_taps_the_inputs_of_the_authors_nine_elements():
    """Their index k is the input of element k of normalise, conv, bn, relu, 27 blocks, ..."""
    modules = ['normalise', 'backbone.conv1', 'backbone.bn1', 'backbone.relu']
    modules += [f'backbone.layer{stage}.{block}' for stage in (1, 2, 3) for block in range(9)]
    config = build(read('resnet56s_afan-learned_cifar10.py')).afan.config
    taps = [tap.module for tap in config.taps.values()]
    assert taps == [modules[k - 1] for k in (4, 8, 11, 14, 18, 21, 24, 28, 31)]
    assert {(t.num_steps, t.step_size, t.weight) for t in config.taps.values()} == {
        (3, 1 / 255, (0.5 / 9, ))}
    learn = config.learn_strengths
    assert (learn.lr, learn.momentum, learn.l1, learn.init) == (0.01, 0.9, 1.0, 1 / 9)


def test_folder_of_images_is_chosen_by_options(tmp_path):
    import cv2
    generator = np.random.default_rng(0)
    for split in ('train', 'test'):
        for label in ('cat', 'dog'):
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(2):
                image = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                cv2.imwrite(str(tmp_path / split / label / f'{i}.png'), image)
    cfg = read('resnet18_afan_cifar10-folder.py')
    cfg.merge_from_dict({f'{part}_dataloader.dataset.data_root': str(tmp_path)
                         for part in ('train', 'val', 'test')})
    [batch] = load_batches(cfg, 1, 4)
    assert tuple(batch['inputs'].shape) == (4, 3, 32, 32)
    assert sorted(int(s.gt_label) for s in batch['data_samples']) == [0, 0, 1, 1]
    model = build(cfg)
    log, change = train_step(cfg, model, batch)
    assert 'adv_backbone_0.loss' in log and change['backbone'] > 0
    assert model.data_preprocessor.to_rgb


def test_metafile_lists_every_config_and_claims_no_result():
    import yaml
    with open(osp.join(ROOT, 'model-index.yml')) as file:
        assert 'configs/mmpretrain/metafile.yml' in yaml.safe_load(file)['Import']
    with open(osp.join(FOLDER, 'metafile.yml')) as file:
        meta = yaml.safe_load(file)
    collections = {c['Name'] for c in meta['Collections']}
    paths = [m['Config'] for m in meta['Models']]
    assert sorted(paths) == sorted(f'configs/mmpretrain/{n}' for n in AFAN + BASELINES)
    for model in meta['Models']:
        assert model['In Collection'] in collections
        assert model['Name'] == osp.splitext(osp.basename(model['Config']))[0]
        assert 'Results' not in model and 'Weights' not in model


def test_package_carries_the_configs():
    folder = osp.join(osp.dirname(mmafan.__file__), '.mim', 'configs', 'mmpretrain')
    assert osp.realpath(folder) == osp.realpath(FOLDER)
