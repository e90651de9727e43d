# A small segmentor on few images, whole and without flips, with the recipe for small data sets.
_base_ = [
    '../_base_/deeplabv3plus_small.py', '../_base_/nuclei.py', '../_base_/afan_small_data.py'
]

size = (128, 128)
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
model = dict(
    type='mmafan.AFANEncoderDecoder',
    data_preprocessor=dict(size=size, test_cfg=dict(size_divisor=8)),
    decode_head=dict(num_classes=2),
    auxiliary_head=dict(num_classes=2),
    afan=_base_.afan_recipe)
model['afan']['taps']['backbone'].update(module='backbone.stem')  # of ResNetV1c

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        indices=list(range(1, 201, 5)),
        pipeline=[*load, dict(type='Resize', scale=size, keep_ratio=False), dict(type='PackSegInputs')]))
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=50, end=1000),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1000, val_interval=1000)
