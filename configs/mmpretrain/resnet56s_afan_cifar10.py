# The authors' published recipe on the baseline of their experiments.
_base_ = ['./resnet56s_cifar10.py', '../_base_/afan_published.py']

model = dict(type='mmafan.AFANImageClassifier', afan=_base_.afan_recipe)
