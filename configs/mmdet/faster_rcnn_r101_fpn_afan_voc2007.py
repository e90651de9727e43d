_base_ = './faster_rcnn_r50_fpn_afan_voc2007.py'

model = dict(
    backbone=dict(
        depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101')))
