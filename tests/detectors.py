"""Small versions of stock mmdet detectors, and random images with boxes, for tests."""
from __future__ import annotations

import copy

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

BACKBONE = dict(depth=18, base_channels=8, stem_channels=8, init_cfg=None, frozen_stages=-1)
CHANNELS = [8, 16, 32, 64]
NECK = dict(in_channels=CHANNELS, out_channels=16)
RPN = dict(in_channels=16, feat_channels=16, anchor_generator=dict(scales=[2]))
TWO_STAGE = dict(
    backbone=BACKBONE, neck=NECK, rpn_head=RPN,
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16, roi_layer=dict(output_size=4)),
        bbox_head=dict(in_channels=16, fc_out_channels=24, roi_feat_size=4, num_classes=5)),
    train_cfg=dict(rpn_proposal=dict(nms_pre=50, max_per_img=40), rcnn=dict(sampler=dict(num=32))))
MASK = dict(
    mask_roi_extractor=dict(out_channels=16),
    mask_head=dict(in_channels=16, conv_out_channels=16, num_classes=5, num_convs=1))
# Stock config, what makes it small, and modules that finish before the tap backbone.layer2.
STEM = ('backbone.conv1', 'backbone.bn1', 'backbone.layer1')
DETECTORS = dict(
    faster_rcnn=('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', TWO_STAGE),
    mask_rcnn=('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
               dict(TWO_STAGE, roi_head=dict(TWO_STAGE['roi_head'], **MASK))),
    retinanet=('retinanet/retinanet_r50_fpn_1x_coco.py',
               dict(backbone=BACKBONE, neck=NECK,
                    bbox_head=dict(num_classes=5, in_channels=16, feat_channels=16, stacked_convs=1,
                                   anchor_generator=dict(octave_base_scale=2)))),
    rtmdet=('rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
            dict(backbone=dict(deepen_factor=0.167, widen_factor=0.125, init_cfg=None),
                 neck=dict(in_channels=[32, 64, 128], out_channels=16, num_csp_blocks=1),
                 bbox_head=dict(num_classes=5, in_channels=16, feat_channels=16))),
    dino=('dino/dino-4scale_r50_8xb2-12e_coco.py',
          dict(num_queries=20, test_cfg=dict(max_per_img=20),
               backbone=BACKBONE,
               neck=dict(in_channels=CHANNELS[1:]),  # its decoder encodes boxes for 256 channels, whatever the config
               encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=dict(dropout=0.1),
                                                         ffn_cfg=dict(feedforward_channels=32, ffn_drop=0.1))),
               decoder=dict(num_layers=2, layer_cfg=dict(ffn_cfg=dict(feedforward_channels=32))),
               bbox_head=dict(num_classes=5), dn_cfg=dict(group_cfg=dict(num_dn_queries=4)))),
)
TAPS = dict(faster_rcnn='backbone.layer2', mask_rcnn='backbone.layer2', retinanet='backbone.layer2',
            rtmdet='backbone.stage2', dino='backbone.layer2')
ROI = 'roi_head.bbox_head.shared_fcs'
ROI_LOSSES = ('loss_cls', 'loss_bbox')


def stock_config(name, **changes):
    """Return the model config of a small stock detector; a change to None removes a part."""
    import mmdet
    path, small = DETECTORS[name]
    cfg = Config.fromfile(f'{mmdet.__path__[0]}/.mim/configs/{path}')
    cfg.model.pop('_scope_', None)
    cfg.merge_from_dict(dict(model=copy.deepcopy(small)))
    cfg.merge_from_dict(dict(model=copy.deepcopy({k: v for k, v in changes.items() if v is not None})))
    for key in [k for k, v in changes.items() if v is None]:
        del cfg.model[key]
    return cfg.model


def build(name, afan=None, double=False, seed=1, **changes):
    """Build a small detector; with ``afan`` its A-FAN version."""
    init_default_scope('mmdet')
    cfg = stock_config(name, **changes)
    if afan is not None:
        cfg.update(type=f'mmafan.AFAN{cfg.type}', afan=copy.deepcopy(afan))
    torch.manual_seed(seed)
    model = MODELS.build(cfg)
    for parameter in model.parameters():  # stock heads begin with weights so small that gradients vanish
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel()**-0.5)
    model.train()
    return model.double() if double else model


def make_batch(num_images=2, size=(64, 96), num_boxes=(2, 3), masks=True, seed=5, dtype=torch.float32, crowd=False,
               sizes=None):
    """Make preprocessed arguments of ``loss``: random images, boxes (at least 12 pixels wide) and masks.

    Args:
        num_boxes: Boxes of every image.
        crowd: Whether the boxes of the first image are to be ignored.
        sizes: ``(height, width)`` of every image inside the padded ones.
    """
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData
    random = np.random.RandomState(seed)
    height, width = size
    inputs = torch.from_numpy(random.randn(num_images, 3, height, width)).to(dtype)
    samples = []
    for index in range(num_images):
        own = (sizes or [size] * num_images)[index]
        count = num_boxes[index]
        corner = random.uniform(0, 0.5, (count, 2)) * own[::-1]
        extent = random.uniform(0.2, 0.45, (count, 2)) * own[::-1]
        boxes = np.concatenate([corner, corner + extent], axis=1)
        bitmaps = np.zeros((count, *size), np.uint8)
        for k, (left, top, right, bottom) in enumerate(boxes.astype(int)):
            bitmaps[k, top:bottom, left:right] = 1
        instances = InstanceData(bboxes=HorizontalBoxes(torch.from_numpy(boxes).to(dtype).reshape(-1, 4)).tensor,
                                 labels=torch.from_numpy(random.randint(5, size=count)).long())
        if masks:
            instances.masks = BitmapMasks(bitmaps, *size)
        sample = DetDataSample(metainfo=dict(
            img_shape=own, batch_input_shape=size, pad_shape=own, ori_shape=own, scale_factor=(1.0, 1.0)))
        empty = instances[torch.zeros(count, dtype=torch.bool)]
        ignored = crowd and index == 0
        sample.gt_instances, sample.ignored_instances = (empty, instances) if ignored else (instances, empty)
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)
