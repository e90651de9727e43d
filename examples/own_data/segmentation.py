# A segmentor for your own label maps, with the A-FAN recipe for segmentors with an ASPP.
#
#   data/maps/images/{train,val}/NAME.jpg     data/maps/labels/{train,val}/NAME.png
#
# A label map is a grey image of the size of its image: the number of a class at each pixel, 255 where none counts.
# Change the lines below, then:  mmafan train segmentation.py
_base_ = [
    # A stock model, and what every training of mmseg shares.
    'mmseg::_base_/models/deeplabv3plus_r50-d8.py',
    'mmseg::_base_/default_runtime.py',
    # The recipe (`afan_recipe`), and the hook that logs and checks it.
    __import__('mmafan') and 'mmafan::_base_/afan_segmentation.py',
]

data_root = 'data/maps/'
classes = ('background', 'cat', 'dog')  # in the order of their numbers, from 0
palette = [[0, 0, 0], [220, 20, 60], [0, 130, 180]]  # colours for pictures
crop_size = (512, 512)

norm_cfg = dict(type='BN', requires_grad=True)  # one process; 'SyncBN' with several
model = dict(
    # 'AFAN' + the stock type; everything else stays the stock model's.
    type='mmafan.AFANEncoderDecoder',
    data_preprocessor=dict(size=crop_size),
    # Downloaded at the first start. Without a network: None, which trains from scratch.
    pretrained='open-mmlab://resnet18_v1c',
    backbone=dict(depth=18, norm_cfg=norm_cfg),
    decode_head=dict(
        in_channels=512, channels=128, c1_in_channels=64, c1_channels=12, num_classes=len(classes), norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=256, channels=64, num_classes=len(classes), norm_cfg=norm_cfg),
    afan=_base_.afan_recipe)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(1024, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]

dataset_type = 'BaseSegDataset'
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type, data_root=data_root, metainfo=dict(classes=classes, palette=palette),
        data_prefix=dict(img_path='images/train', seg_map_path='labels/train'), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type, data_root=data_root, metainfo=dict(classes=classes, palette=palette),
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'), pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4), clip_grad=None)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=1e-4, begin=0, end=4000, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4000, val_interval=400)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=20, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=400, max_keep_ckpts=2, save_best='mIoU', rule='greater'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'))
