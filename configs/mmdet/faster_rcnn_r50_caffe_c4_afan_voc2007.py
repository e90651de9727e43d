# The authors' recipe for VOC2007 (trainval, tested on test): optimizer, schedule and size of images
# as their scripts set them. Their batch of 8 images is meant as one per process on 8 processes.
_base_ = [
    'mmdet::pascal_voc/faster-rcnn_r50-caffe-c4_ms-18k_voc0712.py',
    '../_base_/afan_detection_published.py'
]

model = dict(type='mmafan.AFANFasterRCNN', afan=_base_.afan_recipe)

train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=_base_.backend_args),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(1000, 600), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=_base_.backend_args),
    dict(type='Resize', scale=(1000, 600), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=1,
    dataset=dict(
        datasets=[
            dict(
                type='VOCDataset',
                data_root=_base_.data_root,
                ann_file='VOC2007/ImageSets/Main/trainval.txt',
                data_prefix=dict(sub_data_root='VOC2007/'),
                filter_cfg=dict(filter_empty_gt=True, min_size=32),
                pipeline=train_pipeline,
                backend_args=_base_.backend_args)
        ]))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

max_iter = 11250
train_cfg = dict(max_iters=max_iter, val_interval=1250)
param_scheduler = [
    dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=500),
    dict(
        type='MultiStepLR',
        begin=0,
        end=max_iter,
        by_epoch=False,
        milestones=[6250, 8750],
        gamma=0.1),
]
optim_wrapper = dict(optimizer=dict(lr=0.008, weight_decay=5e-4))
auto_scale_lr = dict(base_batch_size=8)

default_hooks = dict(checkpoint=dict(interval=1250))
