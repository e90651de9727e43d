_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', '../_base_/afan_detection.py']

model = dict(type='mmafan.AFANMaskRCNN', afan=_base_.afan_recipe)
