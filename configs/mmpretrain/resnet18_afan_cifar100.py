# mmpretrain has no ResNet-18 for CIFAR-100: this takes the data and the schedule of its ResNet-50.
_base_ = ['mmpretrain::resnet/resnet50_8xb16_cifar100.py', '../_base_/afan_backbone.py']

model = dict(
    type='mmafan.AFANImageClassifier',
    backbone=dict(depth=18),
    head=dict(in_channels=512),
    afan=_base_.afan_recipe)
