_base_ = ['mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', '../_base_/afan_backbone.py']

model = dict(type='mmafan.AFANDINO', afan=_base_.afan_recipe)
model['afan'].update(clean_weight=0.5)  # with the weight of the term 1; another was measured on classifiers alone
