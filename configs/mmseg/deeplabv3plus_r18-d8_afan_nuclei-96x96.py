# A small segmentor from scratch on a small data set: the shape of a project of one's own.
_base_ = [
    '../_base_/deeplabv3plus_small.py', '../_base_/nuclei.py', '../_base_/afan_segmentation.py'
]

model = dict(
    type='mmafan.AFANEncoderDecoder',
    data_preprocessor=dict(size=_base_.crop_size, test_cfg=dict(size_divisor=8)),
    decode_head=dict(num_classes=2),
    auxiliary_head=dict(num_classes=2),
    afan=_base_.afan_recipe)

param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=50, end=400),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=400, val_interval=200)
