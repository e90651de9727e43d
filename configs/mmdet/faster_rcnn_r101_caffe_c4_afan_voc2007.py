_base_ = './faster_rcnn_r50_caffe_c4_afan_voc2007.py'

checkpoint = dict(type='Pretrained', checkpoint='open-mmlab://detectron2/resnet101_caffe')
model = dict(
    backbone=dict(depth=101, init_cfg=checkpoint),
    roi_head=dict(shared_head=dict(depth=101, init_cfg=checkpoint)))
