# Trained on the 1464 images of VOC2012 train alone, with the 20k schedule of the stock VOC configs.
_base_ = [
    'mmseg::_base_/models/deeplabv3plus_r50-d8.py', 'mmseg::_base_/datasets/pascal_voc12.py',
    'mmseg::_base_/default_runtime.py', 'mmseg::_base_/schedules/schedule_20k.py',
    '../_base_/afan_segmentation.py'
]

data_preprocessor = dict(size=_base_.crop_size)
model = dict(
    type='mmafan.AFANEncoderDecoder',
    data_preprocessor=data_preprocessor,
    decode_head=dict(num_classes=21),
    auxiliary_head=dict(num_classes=21),
    afan=_base_.afan_recipe)
