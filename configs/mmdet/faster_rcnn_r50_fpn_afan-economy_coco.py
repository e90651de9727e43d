_base_ = [
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', '../_base_/afan_detection_economy.py'
]

model = dict(type='mmafan.AFANFasterRCNN', afan=_base_.afan_recipe)
