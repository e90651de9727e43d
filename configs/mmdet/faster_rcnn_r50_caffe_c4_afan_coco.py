# The authors' recipe for COCO: optimizer and schedule as their scripts set them; the size of images
# is the stock one. Their batch of 8 images is meant as one per process on 8 processes.
_base_ = [
    'mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py',
    '../_base_/afan_detection_published.py'
]

model = dict(type='mmafan.AFANFasterRCNN', afan=_base_.afan_recipe)
# On COCO the published step at the backbone is a tenth of that on VOC.
model['afan']['taps']['backbone'].update(step_size=0.1 / 255)

train_dataloader = dict(batch_size=1, sampler=dict(type='InfiniteSampler'))

max_iter = 180000
train_cfg = dict(
    _delete_=True, type='IterBasedTrainLoop', max_iters=max_iter, val_interval=20000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=500),
    dict(
        type='MultiStepLR',
        begin=0,
        end=max_iter,
        by_epoch=False,
        milestones=[120000, 160000],
        gamma=0.1),
]
optim_wrapper = dict(optimizer=dict(lr=0.01))
auto_scale_lr = dict(base_batch_size=8)

default_hooks = dict(checkpoint=dict(by_epoch=False, interval=20000))
log_processor = dict(by_epoch=False)
