"""Models of other codebases: the config, the batch, and taps early and late in the model."""
from __future__ import annotations

from functools import partial
from typing import Any, Callable, NamedTuple, Tuple

from . import batches


class Case(NamedTuple):
    """A model to try.

    Attributes:
        config: Name of the config, with its package.
        batch: Makes a batch.
        taps: Modules that are tapped, at the same time.
        change: Changes the model of the config in place.
    """
    config: str
    batch: Callable[[], Any]
    taps: Tuple[str, ...]
    change: Callable[[Any], None] = lambda model: None


def small_head(model: Any) -> None:
    """Let a head of coordinates take what a backbone makes of 64 pixels."""
    model.head.update(input_size=(64, 64), in_featuremap_size=(2, 2))


CASES = {
    'YOLOv5': Case('mmyolo::yolov5/yolov5_s-v61_syncbn_fast_8xb16-300e_coco.py', batches.yolo_tables,
                   ('backbone.stage1', 'neck.top_down_layers.0')),
    'YOLOv5, data samples': Case('mmyolo::yolov5/yolov5_s-v61_syncbn_8xb16-300e_coco.py', batches.boxes,
                                 ('backbone.stage1', 'neck.top_down_layers.0')),
    'YOLOv6': Case('mmyolo::yolov6/yolov6_n_syncbn_fast_8xb32-400e_coco.py', partial(batches.yolo_tables, 128),
                   ('backbone.stage1', 'neck.top_down_layers.0')),
    'YOLOv7': Case('mmyolo::yolov7/yolov7_tiny_syncbn_fast_8x16b-300e_coco.py', batches.yolo_tables,
                   ('backbone.stage1', 'neck.top_down_layers.0')),
    'YOLOv8': Case('mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py', batches.yolo_tables,
                   ('backbone.stage1', 'neck.top_down_layers.0')),
    'YOLOX': Case('mmyolo::yolox/yolox_tiny_fast_8xb8-300e_coco.py', batches.yolo_tables,
                  ('backbone.stage1', 'neck.top_down_layers.0')),
    'RTMDet': Case('mmyolo::rtmdet/rtmdet_tiny_syncbn_fast_8xb32-300e_coco.py', batches.yolo_tables,
                   ('backbone.stage1', 'neck.top_down_layers.0')),
    'PPYOLOE': Case('mmyolo::ppyoloe/ppyoloe_s_fast_8xb32-300e_coco.py', batches.ppyoloe_tables,
                    ('backbone.stage1', 'neck.top_down_layers.0')),
    'DBNet': Case('mmocr::textdet/dbnet/dbnet_resnet18_fpnc_1200e_icdar2015.py', batches.text_regions,
                  ('backbone.layer1', 'neck.smooth_convs.0')),
    'DBNet++': Case('mmocr::textdet/dbnetpp/dbnetpp_resnet50_fpnc_1200e_icdar2015.py', batches.text_regions,
                    ('backbone.layer1', 'neck.smooth_convs.0')),
    'PANet': Case('mmocr::textdet/panet/panet_resnet18_fpem-ffm_600e_icdar2015.py', batches.text_regions,
                  ('backbone.layer1', 'neck.reduce_conv_c2')),
    'PSENet': Case('mmocr::textdet/psenet/psenet_resnet50_fpnf_600e_icdar2015.py', batches.text_regions,
                   ('backbone.layer1', 'neck')),
    'FCENet': Case('mmocr::textdet/fcenet/fcenet_resnet50_fpn_1500e_icdar2015.py', batches.text_regions,
                   ('backbone.layer1', 'neck')),
    'CRNN': Case('mmocr::textrecog/crnn/crnn_mini-vgg_5e_mj.py', partial(batches.words, channels=1),
                 ('backbone.cnn.relu1', 'backbone.cnn.relu6')),
    'SAR': Case('mmocr::textrecog/sar/sar_resnet31_parallel-decoder_5e_st-sub_mj-sub_sa_real.py',
                partial(batches.words, 48, 160), ('backbone.block2', 'encoder')),
    'SAR, sequential': Case('mmocr::textrecog/sar/sar_resnet31_sequential-decoder_5e_st-sub_mj-sub_sa_real.py',
                            partial(batches.words, 48, 160), ('backbone.block2', 'encoder')),
    'NRTR': Case('mmocr::textrecog/nrtr/nrtr_modality-transform_6e_st_mj.py', batches.words,
                 ('backbone.conv_1', 'encoder.layer_stack.0')),
    'ASTER': Case('mmocr::textrecog/aster/aster_resnet45_6e_st_mj.py', batches.words, ('backbone.layer1', 'encoder')),
    'SVTR': Case('mmocr::textrecog/svtr/svtr-tiny_20e_st_mj.py', partial(batches.words, 64, 256),
                 ('encoder.patch_embed', 'encoder.blocks1.0')),
    'ABINet': Case('mmocr::textrecog/abinet/abinet_20e_st-an_mj.py', partial(batches.words, 32, 128),
                   ('backbone.layer1', 'encoder')),
    'SDMGR': Case('mmocr::kie/sdmgr/sdmgr_novisual_60e_wildreceipt.py', batches.receipts,
                  ('kie_head.node_embed', 'kie_head.gnn_layers.1')),
    'pose, heatmaps': Case('mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py',
                           batches.poses, ('backbone.layer1', 'head.deconv_layers')),
    'pose, regression': Case(
        'mmpose::body_2d_keypoint/topdown_regression/coco/td-reg_res50_8xb64-210e_coco-256x192.py', batches.poses,
        ('backbone.layer1', 'neck')),
    'pose, coordinates': Case('mmpose::body_2d_keypoint/simcc/coco/simcc_res50_8xb64-210e_coco-256x192.py',
                              batches.poses, ('backbone.layer1', 'backbone.layer4'), small_head),
    'RTMPose': Case('mmpose::body_2d_keypoint/rtmpose/coco/rtmpose-t_8xb256-420e_coco-256x192.py', batches.poses,
                    ('backbone.stage1', 'head.mlp'), small_head),
    'TSN': Case('mmaction::recognition/tsn/tsn_imagenet-pretrained-r50_8xb32-1x1x3-100e_kinetics400-rgb.py',
                partial(batches.videos, 3, 3, 64, 64), ('backbone.layer1', 'backbone.layer4')),
    'TSM': Case('mmaction::recognition/tsm/tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_kinetics400-rgb.py',
                partial(batches.videos, 8, 3, 64, 64), ('backbone.layer1', 'backbone.layer4')),
    'SlowOnly': Case('mmaction::recognition/slowonly/slowonly_r50_8xb16-4x16x1-256e_kinetics400-rgb.py',
                     partial(batches.videos, 1, 3, 4, 64, 64), ('backbone.layer1', 'backbone.layer4')),
    'SlowFast': Case('mmaction::recognition/slowfast/slowfast_r50_8xb8-4x16x1-256e_kinetics400-rgb.py',
                     partial(batches.videos, 1, 3, 32, 64, 64),
                     ('backbone.slow_path.layer1', 'backbone.fast_path.layer1')),
    'ST-GCN': Case('mmaction::skeleton/stgcn/stgcn_8xb16-joint-u100-80e_ntu60-xsub-keypoint-3d.py',
                   batches.skeletons, ('backbone.gcn.0', 'backbone.gcn.5')),
    'PointPillars': Case('mmdet3d::pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py',
                         batches.point_clouds, ('backbone.blocks.0', 'neck')),
}
