# The default recipe for segmentors with an ASPP (DeepLabV3, DeepLabV3+) on a stock schedule; the step
# sizes come from configs/studies/segmentation_step_size.py. A config that lists this file beside a
# stock config takes its fields with `model = dict(afan=_base_.afan_recipe)`: `model` itself cannot
# come from two bases.
custom_imports = dict(imports=['mmafan'], allow_failed_imports=False)
custom_hooks = [dict(type='mmafan.AdvFeatureHook')]

# The weights of the clean and the adversarial terms sum to 1: the scale of the loss, and with it
# the learning rate, stays that of the stock config. The running statistics of batch norms see clean
# features only.
afan_recipe = dict(
    taps=dict(
        # Before the auxiliary head, so that its loss is attacked and counts too. Every image draws
        # one of two strengths, so there is one adversarial pass.
        backbone=dict(
            module='backbone.layer3',
            step_size=0.03,
            step_unit='std',
            strengths=(0.5, 1.0),
            strength_sampling='random',
            reinject=(False, True),
            moments='channel',
            weight=0.4),
        # The output of the ASPP, after its projection. No loss of the auxiliary head depends on it,
        # so `losses` needs no names, and the attack stays free.
        aspp=dict(module='decode_head.bottleneck', step_size=0.03, step_unit='std', weight=0.1)),
    clean_weight=0.5,
    batch_norm='batch')
