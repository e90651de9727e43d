_base_ = [
    'mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py', '../_base_/afan_detection_voc.py'
]

model = dict(type='mmafan.AFANFasterRCNN', afan=_base_.afan_recipe)
