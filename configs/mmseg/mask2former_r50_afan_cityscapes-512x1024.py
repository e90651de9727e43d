_base_ = [
    'mmseg::mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py',
    '../_base_/afan_segmentation_backbone.py'
]

model = dict(type='mmafan.AFANEncoderDecoder', afan=_base_.afan_recipe)
