_base_ = ['mmpretrain::resnet/resnet18_8xb16_cifar10.py', '../_base_/afan_backbone.py']

model = dict(type='mmafan.AFANImageClassifier', afan=_base_.afan_recipe)
