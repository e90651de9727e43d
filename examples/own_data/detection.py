# A detector for your own boxes in COCO format, with the cautious A-FAN recipe for detection.
#
#   data/boxes/train/*.jpg  data/boxes/train.json     data/boxes/val/*.jpg  data/boxes/val.json
#
# Change the two lines below, then:  mmafan train detection.py
_base_ = [
    # A stock model, and what every training of mmdet shares.
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    'mmdet::_base_/default_runtime.py',
    # The recipe (`afan_recipe`), and the hook that logs and checks it.
    __import__('mmafan') and 'mmafan::_base_/afan_detection.py',
]

data_root = 'data/boxes/'
classes = ('cat', 'dog', 'horse')  # the `name` of each category in the json files; others are left out

model = dict(
    # 'AFAN' + the stock type; everything else stays the stock model's.
    type='mmafan.AFANFasterRCNN',
    # Downloaded at the first start. Without a network: init_cfg=None with frozen_stages=-1 and norm_eval=False, which
    # trains from scratch.
    backbone=dict(depth=18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
    neck=dict(in_channels=[64, 128, 256, 512]),
    roi_head=dict(bbox_head=dict(num_classes=len(classes))),
    afan=_base_.afan_recipe)

image_size = (640, 640)  # the longer and the shorter side at the most
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=image_size, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_size, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

dataset_type = 'CocoDataset'
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type=dataset_type, data_root=data_root, ann_file='train.json', data_prefix=dict(img='train/'),
        metainfo=dict(classes=classes), filter_cfg=dict(filter_empty_gt=True, min_size=1), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type, data_root=data_root, ann_file='val.json', data_prefix=dict(img='val/'),
        metainfo=dict(classes=classes), test_mode=True, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file=data_root + 'val.json', metric='bbox')
test_evaluator = val_evaluator

# The rate is meant for 4 images in a batch.
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.005, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type='MultiStepLR', by_epoch=True, milestones=[16, 22], gamma=0.1),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=24, val_interval=4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=4, max_keep_ckpts=2, save_best='coco/bbox_mAP', rule='greater'))
