_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/afan_detection_backbone.py']

custom_hooks = [dict(type='mmafan.AdvFeatureHook')]

model = dict(type='mmafan.AFANRetinaNet', afan=_base_.afan_recipe)
