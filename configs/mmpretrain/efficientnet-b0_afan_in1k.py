_base_ = ['mmpretrain::efficientnet/efficientnet-b0_8xb32_in1k.py', '../_base_/afan_backbone.py']

model = dict(type='mmafan.AFANImageClassifier', afan=_base_.afan_recipe)
model['afan']['taps']['backbone'].update(module='backbone.layers.3')
