# The segmentation demo with A-FAN, by the recipe of configs/_base_/afan_segmentation.py: features of
# the third stage, one of two strengths drawn for each image, the stronger one re-injected, and the
# output of the ASPP. The weights sum to 1.
_base_ = './deeplabv3plus_digits.py'

custom_hooks = [dict(type='mmafan.AdvFeatureHook')]

model = dict(
    type='mmafan.AFANEncoderDecoder',
    afan=dict(
        taps=dict(
            backbone=dict(
                module='backbone.layer3',
                step_size=0.03,
                step_unit='std',
                strengths=(0.5, 1.0),
                strength_sampling='random',
                reinject=(False, True),
                moments='channel',
                weight=0.4),
            aspp=dict(
                module='decode_head.bottleneck', step_size=0.03, step_unit='std', weight=0.1)),
        clean_weight=0.5,
        batch_norm='batch'))
