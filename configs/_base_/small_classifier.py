# Model and training of the classification studies: the first three stages of a stock ResNet-18 for small images, a
# quarter as wide, each of stride 2; trained from scratch in bfloat16.
_base_ = './runtime.py'

model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels=16, base_channels=16, num_stages=3, strides=(2, 2, 2),
                  dilations=(1, 1, 1), out_indices=(2, ), style='pytorch'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64, loss=dict(type='CrossEntropyLoss')))

optim_wrapper = dict(
    type='AmpOptimWrapper', dtype='bfloat16', loss_scale=1.0,
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=1, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=30, val_interval=100)

default_scope = 'mmpretrain'
default_hooks = dict(checkpoint=dict(interval=10))
visualizer = dict(type='UniversalVisualizer', vis_backends=_base_.vis_backends)
