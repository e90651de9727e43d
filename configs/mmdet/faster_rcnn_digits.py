# Baseline of the detection demo: a small stock Faster R-CNN, from scratch, on scenes of handwritten
# digits.
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', '../_base_/digit_scenes.py']

model = dict(
    data_preprocessor=dict(mean=[75.0] * 3, std=[40.0] * 3, bgr_to_rgb=False, pad_size_divisor=16),
    backbone=dict(
        depth=18,
        base_channels=16,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(0, 1, 2),
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=None),
    neck=dict(in_channels=[16, 32, 64], out_channels=32, num_outs=3),
    rpn_head=dict(
        in_channels=32,
        feat_channels=32,
        anchor_generator=dict(scales=[3], ratios=[1.4], strides=[4, 8, 16])),
    roi_head=dict(
        bbox_roi_extractor=dict(
            out_channels=32, featmap_strides=[4, 8, 16], finest_scale=12,
            roi_layer=dict(output_size=5)),
        bbox_head=dict(in_channels=32, fc_out_channels=128, roi_feat_size=5, num_classes=10)),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=32)),
        rpn_proposal=dict(nms_pre=100, max_per_img=32),
        rcnn=dict(sampler=dict(num=16, pos_fraction=0.5))),
    test_cfg=dict(
        rpn=dict(nms_pre=100, max_per_img=32),
        rcnn=dict(score_thr=0.01, max_per_img=20)))
