# The authors' recipe for Cityscapes: four crops on one GPU.
_base_ = [
    '../_base_/deeplabv3plus_published.py', 'mmseg::_base_/datasets/cityscapes.py',
    '../_base_/afan_segmentation_published_cityscapes.py'
]

crop_size = (768, 768)
data_preprocessor = dict(size=crop_size)
model = dict(
    type='mmafan.AFANEncoderDecoder',
    data_preprocessor=data_preprocessor,
    afan=_base_.afan_recipe)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomCrop', crop_size=crop_size),
    # Theirs changes no hue; 1 is the least that this transform takes.
    dict(type='PhotoMetricDistortion', hue_delta=1),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))

optimizer = dict(lr=0.1)
optim_wrapper = dict(optimizer=optimizer)
