_base_ = [
    'mmseg::deeplabv3plus/deeplabv3plus_r101-d8_4xb4-20k_voc12aug-512x512.py',
    '../_base_/afan_segmentation.py'
]

model = dict(type='mmafan.AFANEncoderDecoder', afan=_base_.afan_recipe)
