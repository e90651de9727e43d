# The authors' recipe for VOC2012, as their main_aug_final.py runs it; see configs/mmseg/README.md
# for what mmseg's DeepLabV3+ does differently.
custom_imports = dict(imports=['mmafan'], allow_failed_imports=False)
custom_hooks = [dict(type='mmafan.AdvFeatureHook')]

afan_recipe = dict(
    taps=dict(
        # Four settings are published: this one, reinject=(False, True), the same at layer2, and
        # layer2 with step_size=0.03 / 255 and reinject=False.
        backbone=dict(
            module='backbone.layer3',
            step_size=0.01 / 255,
            strengths=(0.5, 1.0),
            reinject=(True, True),
            moments='channel',
            weight=0.1),
        aspp=dict(module='decode_head.bottleneck', step_size=0.4 / 255, weight=0.1)),
    clean_weight=0.7,
    batch_norm='shared')
