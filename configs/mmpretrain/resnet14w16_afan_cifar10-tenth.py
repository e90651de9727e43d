# The network of the classification study on CIFAR-10 (configs/studies/README.md).
_base_ = ['../_base_/small_classifier.py', '../_base_/cifar10_tenths.py', '../_base_/afan_backbone.py']

model = dict(type='mmafan.AFANImageClassifier', afan=_base_.afan_recipe)
