_base_ = [
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    '../_base_/afan_segmentation_backbone.py'
]

model = dict(type='mmafan.AFANEncoderDecoder', afan=_base_.afan_recipe)
# The norm at the end of the second stage: the third stage and the decoder take its output.
model['afan']['taps']['backbone'].update(module='backbone.layers.1.2')
