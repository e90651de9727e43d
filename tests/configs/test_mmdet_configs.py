"""Every detection config changes what it says and nothing else, builds, and trains a step."""
from __future__ import annotations

import copy
import functools
import glob
import os.path as osp

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet', reason='the configs are for detection')

from mmengine.config import Config  # noqa: E402
from mmengine.optim import build_optim_wrapper  # noqa: E402
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

import mmafan  # noqa: E402
from mmafan.analysis import load_batches  # noqa: E402
from mmafan.config import AFANConfig  # noqa: E402
from mmafan.models import AFANModelMixin  # noqa: E402

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
FOLDER = osp.join(ROOT, 'configs', 'mmdet')

COCO_R50, COCO_R101 = (f'faster_rcnn/faster-rcnn_r{depth}_fpn_1x_coco.py' for depth in (50, 101))
VOC = 'pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py'
VOC_C4 = 'pascal_voc/faster-rcnn_r50-caffe-c4_ms-18k_voc0712.py'
COCO_C4 = 'faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py'
STOCK = {
    'dino_4scale_r50_afan_coco.py': 'dino/dino-4scale_r50_8xb2-12e_coco.py',
    'faster_rcnn_r50_fpn_afan_coco.py': COCO_R50,
    'faster_rcnn_r101_fpn_afan_coco.py': COCO_R101,
    'faster_rcnn_r50_fpn_afan-economy_coco.py': COCO_R50,
    'faster_rcnn_r50_fpn_afan_voc0712.py': VOC,
    'faster_rcnn_r101_fpn_afan_voc0712.py': VOC,
    'faster_rcnn_r50_fpn_afan_voc2007.py': VOC,
    'faster_rcnn_r101_fpn_afan_voc2007.py': VOC,
    'faster_rcnn_r50_caffe_c4_afan_voc2007.py': VOC_C4,
    'faster_rcnn_r101_caffe_c4_afan_voc2007.py': VOC_C4,
    'faster_rcnn_r50_caffe_c4_afan_coco.py': COCO_C4,
    'faster_rcnn_r101_caffe_c4_afan_coco.py': COCO_C4,
    'mask_rcnn_r50_fpn_afan_coco.py': 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'retinanet_r50_fpn_afan_coco.py': 'retinanet/retinanet_r50_fpn_1x_coco.py',
    'rtmdet_tiny_afan_coco.py': 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
}
PUBLISHED = [name for name in STOCK if '_c4_' in name]
CLASSES = {
    'dino': 'DINO', 'faster': 'FasterRCNN', 'mask': 'MaskRCNN', 'retinanet': 'RetinaNet',
    'rtmdet': 'RTMDet'
}

SWITCH = {'model.type', 'model.afan', 'custom_imports', 'custom_hooks', 'afan_recipe'}
R101 = {'model.backbone.depth', 'model.backbone.init_cfg.checkpoint'}
R101_C4 = R101 | {'checkpoint'} | {
    f'model.roi_head.shared_head.{key}' for key in ('depth', 'init_cfg.checkpoint')}
VOC07 = {'train_dataloader.dataset.dataset.datasets'}
SCHEDULE = {
    'max_iter', 'train_cfg.max_iters', 'train_cfg.val_interval', 'param_scheduler',
    'optim_wrapper.optimizer.lr', 'auto_scale_lr.base_batch_size', 'train_dataloader.batch_size',
    'default_hooks.checkpoint.interval'
}
C4_VOC = SCHEDULE | {
    'optim_wrapper.optimizer.weight_decay', 'train_dataloader.dataset.datasets', 'train_pipeline',
    'test_pipeline', 'val_dataloader.dataset.pipeline', 'test_dataloader.dataset.pipeline'
}
C4_COCO = SCHEDULE | {
    'train_cfg.type', 'train_cfg.max_epochs', 'train_dataloader.sampler.type',
    'default_hooks.checkpoint.by_epoch', 'log_processor.by_epoch'
}
CHANGES = {  # beside SWITCH
    'faster_rcnn_r101_fpn_afan_voc0712.py': R101,
    'faster_rcnn_r50_fpn_afan_voc2007.py': VOC07,
    'faster_rcnn_r101_fpn_afan_voc2007.py': R101 | VOC07,
    'faster_rcnn_r50_caffe_c4_afan_voc2007.py': C4_VOC,
    'faster_rcnn_r101_caffe_c4_afan_voc2007.py': C4_VOC | R101_C4,
    'faster_rcnn_r50_caffe_c4_afan_coco.py': C4_COCO,
    'faster_rcnn_r101_caffe_c4_afan_coco.py': C4_COCO | R101_C4,
}
SLOW = pytest.mark.slow
STEPS = [
    'faster_rcnn_r50_fpn_afan_coco.py', 'retinanet_r50_fpn_afan_coco.py', 'rtmdet_tiny_afan_coco.py',
    pytest.param('dino_4scale_r50_afan_coco.py', marks=SLOW),
    pytest.param('faster_rcnn_r50_caffe_c4_afan_voc2007.py', marks=SLOW),
    pytest.param('faster_rcnn_r101_fpn_afan_voc0712.py', marks=SLOW),
    pytest.param('mask_rcnn_r50_fpn_afan_coco.py', marks=SLOW),
]


@functools.lru_cache(maxsize=None)
def read_once(name):
    return Config.fromfile(osp.join(FOLDER, name))


def read(name):
    return copy.deepcopy(read_once(name))


def read_text(text, tmp_path):
    path = tmp_path / 'child.py'
    path.write_text(text)
    return Config.fromfile(str(path))


def build(cfg):
    init_default_scope('mmdet')
    return MODELS.build(cfg.model)  # reads no weights: those come with init_weights


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


def shrink(cfg):
    """No pretrained weights, and fewer proposals, RoIs and queries: a CPU is done in seconds."""
    for part in (cfg.model.backbone, cfg.model.get('roi_head', {}).get('shared_head') or {}):
        part.pop('init_cfg', None)
    train = cfg.model.get('train_cfg') or {}
    if 'rpn_proposal' in train:
        train.rpn_proposal.max_per_img = 20
        train.rcnn.sampler.num = 8
    if 'num_queries' in cfg.model:
        cfg.model.num_queries = 20
    return cfg


def random_batch(size=64, count=2, with_masks=False):
    """What a data loader gives for a detector: images of noise with two boxes each."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[0.1, 0.1, 0.6, 0.7], [0.3, 0.4, 0.9, 0.95]]) * size
    masks = np.zeros((2, size, size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1:y2, x1:x2] = 1
    samples = []
    for index in range(count):
        objects = InstanceData(bboxes=boxes.clone(), labels=torch.tensor([0, 1]))
        if with_masks:
            objects.masks = BitmapMasks(masks, size, size)
        ignored = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        samples.append(DetDataSample(gt_instances=objects, ignored_instances=ignored, metainfo=dict(
            img_id=index, img_shape=(size, size), ori_shape=(size, size), scale_factor=(1.0, 1.0))))
    shape = (3, size, size)
    images = [torch.randint(256, shape, generator=generator, dtype=torch.uint8) for _ in samples]
    return dict(inputs=images, data_samples=samples)


def train_steps(name, count=1):
    """Train steps on one batch; returns model, logs and the largest change of a weight by part."""
    cfg = shrink(read(name))
    torch.manual_seed(0)
    model = build(cfg)
    model.init_weights()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    model.train()
    model.afan.controls.hooked = True  # as AdvFeatureHook does before training
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    logs = [model.train_step(random_batch(with_masks=name.startswith('mask')), wrapper)
            for _ in range(count)]
    change = {}
    for key, p in model.named_parameters():
        part = key.partition('.')[0]
        change[part] = max(change.get(part, 0.0), float((p.detach() - before[key]).abs().max()))
    return model, logs, change


def test_the_list_above_is_what_the_folder_holds():
    found = [osp.basename(path) for path in glob.glob(osp.join(FOLDER, '*.py'))]
    demo = [name for name in found if name.endswith(('_digits.py', '_bccd.py'))]  # on data sets no codebase has
    assert sorted(set(found) - set(demo)) == sorted(STOCK)
    assert len(STOCK) == 15 and len(PUBLISHED) == 4


@pytest.mark.parametrize('name', STOCK)
def test_differs_from_its_stock_config_in_nothing_but_what_is_named(name, tmp_path):
    stock = read_text(f"_base_ = 'mmdet::{STOCK[name]}'\n", tmp_path)
    expected = SWITCH | CHANGES.get(name, set())
    assert changed_keys(read(name), stock) == expected


@pytest.mark.parametrize('name', STOCK)
def test_builds_with_its_taps(name):
    cfg = read(name)
    assert cfg.custom_imports['imports'] == ['mmafan']
    assert [hook['type'] for hook in cfg.custom_hooks][-1] == 'mmafan.AdvFeatureHook'
    model = build(cfg)  # a tap that does not exist is refused here
    assert isinstance(model, AFANModelMixin)
    assert type(model).__name__ == 'AFAN' + CLASSES[name.partition('_')[0]]
    two_stage = name.startswith(('faster', 'mask'))
    assert sorted(model.afan.config.taps) == (['backbone', 'roi'] if two_stage else ['backbone'])
    head = model.roi_head.bbox_head if two_stage else model.bbox_head
    assert head.num_classes == (20 if 'voc' in name else 80)


def test_rtmdet_keeps_the_hooks_of_its_stock_config(tmp_path):
    cfg = read('rtmdet_tiny_afan_coco.py')
    stock = read_text(f"_base_ = 'mmdet::{STOCK['rtmdet_tiny_afan_coco.py']}'\n", tmp_path)
    assert cfg.custom_hooks[:-1] == stock.custom_hooks and len(stock.custom_hooks) == 2


@pytest.mark.parametrize('name', [name for name in STOCK if 'r101' in name])
def test_r101_is_one_throughout(name):
    model = read(name).model
    kind = 'open-mmlab://detectron2/resnet101_caffe' if '_c4_' in name else 'torchvision://resnet101'
    parts = [model.backbone, *([model.roi_head.shared_head] if '_c4_' in name else [])]
    assert [(part.depth, part.init_cfg.checkpoint) for part in parts] == [(101, kind)] * len(parts)


@pytest.mark.parametrize('name', STOCK)
def test_sum_of_the_weights(name):
    """1, so that the stock learning rate keeps its meaning; 1.27 where the authors' recipe is kept."""
    config = recipe(read(name))
    terms = sum(tap.weight[0] * tap.num_passes for tap in config.taps.values())
    expected = 3.8 / 3 if name in PUBLISHED else 1
    assert config.clean_weight + terms == pytest.approx(expected)


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_recipe(name):
    voc = 'voc' in name
    cfg = read(name)
    afan = recipe(cfg)
    backbone, roi = afan.taps['backbone'], afan.taps['roi']
    assert backbone.module == 'backbone.layer2'
    assert roi.module == 'roi_head.bbox_head.avg_pool'
    assert backbone.step_size == pytest.approx((1.0 if voc else 0.1) / 255)
    assert roi.step_size == pytest.approx(0.1 / 255)
    assert backbone.strengths == (0.25, 0.5, 0.75, 1.0) and roi.strengths == (1.0, )
    assert backbone.reinject == (False, False, True, True) and roi.reinject == (False, )
    assert roi.losses == ('loss_cls', 'loss_bbox') and backbone.losses is None
    assert afan.clean_weight == pytest.approx(0.7 / 3)
    assert backbone.weight == pytest.approx((0.7 / 3, ) * 4) and roi.weight == pytest.approx((0.1, ))
    for tap in (backbone, roi):
        assert (tap.num_steps, tap.step_unit, tap.moments) == (1, 'absolute', 'channel')
        assert tap.radius is None and not tap.random_start and tap.fraction == 1
    assert afan.batch_norm == 'frozen'

    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.momentum) == ('SGD', 0.9)
    assert (optimizer.lr, optimizer.weight_decay) == ((0.008, 5e-4) if voc else (0.01, 1e-4))
    assert cfg.train_cfg.type == 'IterBasedTrainLoop'
    assert cfg.train_cfg.max_iters == (11250 if voc else 180000)
    assert cfg.train_dataloader.sampler.type == 'InfiniteSampler'
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.type, steps.type, steps.gamma) == ('LinearLR', 'MultiStepLR', 0.1)
    assert steps.milestones == ([6250, 8750] if voc else [120000, 160000])
    assert not any(scheduler.by_epoch for scheduler in cfg.param_scheduler)
    # One image per process on 8 processes.
    assert (cfg.train_dataloader.batch_size, cfg.auto_scale_lr.base_batch_size) == (1, 8)
    resize = [step.scale for step in cfg.train_pipeline if step.type == 'Resize']
    assert resize == [(1000, 600) if voc else (1333, 800)]


def test_published_learning_rate_on_voc():
    cfg = read('faster_rcnn_r50_caffe_c4_afan_voc2007.py')
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], cfg.optim_wrapper.optimizer.lr)
    schedulers = [PARAM_SCHEDULERS.build(s, default_args=dict(optimizer=optimizer))
                  for s in cfg.param_scheduler]
    rates = []
    for _ in range(cfg.train_cfg.max_iters):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert rates[0] == pytest.approx(0.008 / 3)
    np.testing.assert_allclose(np.diff(rates[:500]), np.diff(rates)[0], rtol=1e-6)  # linear
    np.testing.assert_allclose(rates[500:6250], 0.008, rtol=1e-6)
    np.testing.assert_allclose(rates[6250:8750], 0.0008, rtol=1e-6)
    np.testing.assert_allclose(rates[8750:], 0.00008, rtol=1e-6)


@pytest.mark.parametrize('name', [name for name in STOCK if 'fpn' in name and 'retina' not in name])
def test_taps_of_the_two_stage_configs(name):
    taps = recipe(read(name)).taps
    backbone, roi = taps['backbone'], taps['roi']
    assert (backbone.module, roi.module) == ('backbone.layer2', 'roi_head.bbox_head.shared_fcs')
    assert backbone.step_size == pytest.approx((1.0 if 'voc' in name else 0.1) / 255)
    assert roi.step_size == pytest.approx(0.1 / 255)
    assert backbone.strengths == (0.25, 0.5, 0.75, 1.0)
    assert backbone.reinject == (False, False, True, True)
    assert (roi.weight, roi.losses) == ((0.1, ), ('loss_cls', 'loss_bbox'))
    economy = 'economy' in name
    assert (backbone.strength_sampling, backbone.fraction) == (
        ('random', 0.125) if economy else ('all', 1.0))
    assert backbone.num_passes == (1 if economy else 4)


@pytest.mark.parametrize('name', STOCK)
def test_written_out_it_reads_the_same(name, tmp_path):
    """The runner keeps a copy of the config in one file, for testing and resuming."""
    cfg = read(name)
    again = read_text(cfg.pretty_text, tmp_path)
    assert changed_keys(again, cfg) == set()


@pytest.mark.parametrize('name', STOCK)
def test_as_a_base_one_field_of_one_tap_can_be_overridden(name, tmp_path):
    before = recipe(read(name)).taps
    *others, tap = before
    cfg = read_text(f"_base_ = 'mmafan::mmdet/{name}'\n"
                    f'model = dict(afan=dict(taps=dict({tap}=dict(step_size=0.7))))\n', tmp_path)
    after = recipe(cfg).taps
    assert after[tap].step_size == 0.7 != before[tap].step_size
    assert vars(after[tap]) == {**vars(before[tap]), 'step_size': 0.7}
    assert all(after[other] == before[other] for other in others)


def test_it_builds_as_a_base(tmp_path):
    cfg = read_text("_base_ = 'mmafan::mmdet/faster_rcnn_r50_fpn_afan_coco.py'\n"
                    'model = dict(roi_head=dict(bbox_head=dict(num_classes=3)),\n'
                    '             afan=dict(taps=dict(roi=dict(step_size=0.2))))\n', tmp_path)
    model = build(cfg)
    assert model.roi_head.bbox_head.fc_cls.out_features == 4
    assert model.afan.config.taps['roi'].step_size == 0.2


def write_voc(folder, year):
    """A data set of one image in the layout of VOCdevkit."""
    import cv2
    root = folder / f'VOC{year}'
    for part in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
        (root / part).mkdir(parents=True)
    cv2.imwrite(str(root / 'JPEGImages' / f'{year}.jpg'), np.zeros((60, 80, 3), np.uint8))
    (root / 'Annotations' / f'{year}.xml').write_text(
        '<annotation><size><width>80</width><height>60</height></size><object><name>cat</name>'
        '<difficult>0</difficult><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>60</xmax>'
        '<ymax>50</ymax></bndbox></object></annotation>')
    for split in ('trainval', 'test'):
        (root / 'ImageSets' / 'Main' / f'{split}.txt').write_text(f'{year}\n')


@pytest.mark.parametrize('name, years, repeats', [
    ('faster_rcnn_r50_fpn_afan_voc2007.py', [2007], 3),
    ('faster_rcnn_r101_caffe_c4_afan_voc2007.py', [2007], 1),
    ('faster_rcnn_r50_fpn_afan_voc0712.py', [2007, 2012], 3),
])
def test_voc_data_of_its_years(name, years, repeats, tmp_path, monkeypatch):
    from mmdet.registry import DATASETS
    for year in years:
        write_voc(tmp_path / 'data' / 'VOCdevkit', year)
    monkeypatch.chdir(tmp_path)
    cfg = read(name)
    [batch] = load_batches(cfg, 1, 1)
    [sample] = batch['data_samples']
    height, width = sample.img_shape
    assert batch['inputs'][0].shape[1:] == (height, width) == (600, 800)
    assert sample.gt_instances.labels.tolist() == [7]  # cat
    train = DATASETS.build(cfg.train_dataloader.dataset)
    infos = [train.get_data_info(index) for index in range(len(train))]
    found = {osp.basename(info['img_path']) for info in infos}
    assert len(train) == repeats * len(years) and found == {f'{year}.jpg' for year in years}
    test = DATASETS.build(cfg.test_dataloader.dataset)
    assert len(test) == 1 and test.get_data_info(0)['img_path'].endswith('2007.jpg')


@pytest.mark.parametrize('name', STEPS)
def test_trains_a_step_with_every_adversarial_term(name):
    model, [log], change = train_steps(name)
    for tap, config in model.afan.config.taps.items():
        prefixes = {key.partition('.')[0] for key in log if key.startswith(f'adv_{tap}_')}
        assert prefixes == {f'adv_{tap}_{index}' for index in range(config.num_passes)}
        kept = {key.partition('.')[2] for key in log if key.startswith(f'adv_{tap}_0.')}
        assert set(config.losses or ['loss_bbox']) <= kept
        assert (tap == 'roi') == (not any('rpn' in key for key in kept) and config.losses is not None)
    assert all(bool(torch.isfinite(torch.as_tensor(value)).all()) for value in log.values())
    change.pop('level_embed', None)  # DINO's: a fresh deformable attention has no gradient for it
    assert all(value > 0 for value in change.values()), change


@SLOW
def test_economy_perturbs_one_image_in_every_fourth_step():
    model, logs, _ = train_steps('faster_rcnn_r50_fpn_afan-economy_coco.py', 8)
    assert sum('adv_backbone_0.loss_cls' in log for log in logs) == 2
    assert all('adv_roi_0.loss_cls' in log for log in logs)


def test_metafile_lists_every_config_and_claims_no_result():
    import yaml
    with open(osp.join(ROOT, 'model-index.yml')) as file:
        assert 'configs/mmdet/metafile.yml' in yaml.safe_load(file)['Import']
    with open(osp.join(FOLDER, 'metafile.yml')) as file:
        meta = yaml.safe_load(file)
    with open(osp.join(ROOT, 'configs', 'mmpretrain', 'metafile.yml')) as file:
        other = yaml.safe_load(file)
    collections = {c['Name'] for c in meta['Collections']}
    assert not collections & {c['Name'] for c in other['Collections']}  # mim keeps one list of all
    assert sorted(m['Config'] for m in meta['Models']) == sorted(f'configs/mmdet/{n}' for n in STOCK)
    for model in meta['Models']:
        assert model['In Collection'] in collections
        assert model['Name'] == osp.splitext(osp.basename(model['Config']))[0]
        data = 'VOC0712' if 'voc0712' in model['Name'] else 'VOC2007' if 'voc' in model['Name'] else 'COCO'
        assert data in model['Metadata']['Training Data'].replace(' ', '')
        assert 'Results' not in model and 'Weights' not in model


def test_package_carries_the_configs():
    folder = osp.join(osp.dirname(mmafan.__file__), '.mim', 'configs', 'mmdet')
    assert osp.realpath(folder) == osp.realpath(FOLDER)
