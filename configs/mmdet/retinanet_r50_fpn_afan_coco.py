_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/afan_backbone.py']

model = dict(type='mmafan.AFANRetinaNet', afan=_base_.afan_recipe)
model['afan'].update(clean_weight=0.5)  # with the weight of the term 1; another was measured on classifiers alone
