# A thin ResNet on 600 images, with the recipe for small data sets.
_base_ = ['../_base_/small_classifier.py', '../_base_/cifar10_600.py', '../_base_/afan_small_data.py']

model = dict(type='mmafan.AFANImageClassifier', afan=_base_.afan_recipe)
optim_wrapper = dict(optimizer=dict(lr=0.05))
train_cfg = dict(max_epochs=40, val_interval=40)
default_hooks = dict(checkpoint=dict(interval=20))
