# The authors' recipe for VOC2012: the 1464 images of train, four on one GPU.
_base_ = [
    '../_base_/deeplabv3plus_published.py', 'mmseg::_base_/datasets/pascal_voc12.py',
    '../_base_/afan_segmentation_published.py'
]

crop_size = (513, 513)
data_preprocessor = dict(size=crop_size)
model = dict(
    type='mmafan.AFANEncoderDecoder',
    data_preprocessor=data_preprocessor,
    decode_head=dict(num_classes=21),
    afan=_base_.afan_recipe)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    # The longer side of an image of VOC is 500: this is a factor of 0.5 to 2 on its own size.
    dict(type='RandomResize', scale=(500, 500), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
