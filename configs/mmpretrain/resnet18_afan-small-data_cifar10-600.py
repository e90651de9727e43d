# A ResNet-18 on 600 images of CIFAR-10, with the recipe for small data sets.
_base_ = [
    'mmpretrain::_base_/models/resnet18_cifar.py', '../_base_/runtime.py', '../_base_/cifar10_600.py',
    '../_base_/afan_small_data.py'
]

model = dict(type='mmafan.AFANImageClassifier', afan=_base_.afan_recipe)

optim_wrapper = dict(
    type='AmpOptimWrapper', dtype='bfloat16', loss_scale=1.0,
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=1, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=40, val_interval=40)

default_scope = 'mmpretrain'
default_hooks = dict(checkpoint=dict(interval=20))
visualizer = dict(type='UniversalVisualizer', vis_backends=_base_.vis_backends)
