# A classifier for your own folders of images, with the A-FAN recipe for small data sets.
#
#   data/images/train/<class>/*.jpg     data/images/val/<class>/*.jpg
#
# Change the two lines below, then:  mmafan train classification.py
_base_ = [
    # A stock model, and what every training of mmpretrain shares.
    'mmpretrain::_base_/models/resnet18.py',
    'mmpretrain::_base_/default_runtime.py',
    # The recipe (`afan_recipe`), and the hook that waits until the training set is fitted.
    __import__('mmafan') and 'mmafan::_base_/afan_small_data.py',
]

data_root = 'data/images/'
classes = ('cat', 'dog', 'horse')  # the names of the folders, in any order: a number is the place of a name here

model = dict(
    # 'AFAN' + the stock type; everything else stays the stock model's.
    type='mmafan.AFANImageClassifier',
    # Downloaded at the first start. Without a network: init_cfg=None, which trains from scratch.
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
    head=dict(num_classes=len(classes), topk=(1, )),
    afan=_base_.afan_recipe)

# Mean and standard deviation of ImageNet, which the pretrained weights expect; image files are read as BGR.
data_preprocessor = dict(
    num_classes=len(classes), mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short'),
    # With random crops (RandomResizedCrop) A-FAN adds nothing beyond chance: use them where they keep the label.
    dict(type='CenterCrop', crop_size=224),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]

dataset_type = 'CustomDataset'
train_dataloader = dict(
    batch_size=32,
    num_workers=2,
    dataset=dict(
        type=dataset_type, data_root=data_root, data_prefix='train', metainfo=dict(classes=classes),
        pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(
    batch_size=32,
    num_workers=2,
    dataset=dict(
        type=dataset_type, data_root=data_root, data_prefix='val', metainfo=dict(classes=classes),
        pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, ))
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True)
# Long enough to learn a small training set by heart: only then the recipe begins to attack.
train_cfg = dict(by_epoch=True, max_epochs=50, val_interval=5)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=5, max_keep_ckpts=2, save_best='accuracy/top1', rule='greater'))
