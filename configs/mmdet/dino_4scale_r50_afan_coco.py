_base_ = ['mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', '../_base_/afan_detection_backbone.py']

custom_hooks = [dict(type='mmafan.AdvFeatureHook')]

model = dict(type='mmafan.AFANDINO', afan=_base_.afan_recipe)
