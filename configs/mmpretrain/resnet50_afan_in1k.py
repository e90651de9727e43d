_base_ = ['mmpretrain::resnet/resnet50_8xb32_in1k.py', '../_base_/afan_backbone.py']

model = dict(type='mmafan.AFANImageClassifier', afan=_base_.afan_recipe)
