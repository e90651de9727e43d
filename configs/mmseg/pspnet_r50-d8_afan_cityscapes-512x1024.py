_base_ = [
    'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    '../_base_/afan_segmentation_backbone.py'
]

model = dict(type='mmafan.AFANEncoderDecoder', afan=_base_.afan_recipe)
