# Baseline of the segmentation demo: a small stock DeepLabV3+, from scratch, on scenes of
# handwritten digits.
_base_ = ['mmseg::_base_/models/deeplabv3plus_r50-d8.py', '../_base_/digit_scenes_semantic.py']

model = dict(
    data_preprocessor=dict(
        mean=[75.0] * 3, std=[40.0] * 3, bgr_to_rgb=False, size=_base_.image_size),
    pretrained=None,
    backbone=dict(
        type='ResNet',
        depth=18,
        stem_channels=16,
        base_channels=16,
        num_stages=3,
        strides=(1, 2, 1),
        dilations=(1, 1, 2),
        out_indices=(0, 1, 2),
        norm_cfg=dict(type='BN'),
        zero_init_residual=False),
    decode_head=dict(
        in_channels=64,
        in_index=2,
        channels=64,
        dilations=(1, 2, 4),
        c1_in_channels=16,
        c1_channels=16,
        num_classes=11,
        norm_cfg=dict(type='BN'),
        loss_decode=dict(class_weight=[0.1] + [1.0] * 10)),  # most pixels are background
    auxiliary_head=None)
