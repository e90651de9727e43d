_base_ = ['mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', '../_base_/afan_detection_backbone.py']

custom_hooks = [*_base_.custom_hooks, dict(type='mmafan.AdvFeatureHook')]

model = dict(type='mmafan.AFANRTMDet', afan=_base_.afan_recipe)
model['afan']['taps']['backbone'].update(module='backbone.stage2')
