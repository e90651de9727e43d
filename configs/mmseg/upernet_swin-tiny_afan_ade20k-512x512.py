_base_ = [
    'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
    '../_base_/afan_segmentation_backbone.py'
]

model = dict(type='mmafan.AFANEncoderDecoder', afan=_base_.afan_recipe)
# The last block of the second stage: the third stage and the decoder take its output.
model['afan']['taps']['backbone'].update(module='backbone.stages.1.blocks.1')
