_base_ = './afan_segmentation_published.py'

# On Cityscapes the tap of the decoder is its concatenated feature, and re-injected.
afan_recipe = dict(
    taps=dict(
        # Six settings are published, see configs/mmseg/README.md.
        backbone=dict(module='backbone.layer2', step_size=0.02 / 255, reinject=(False, True)),
        aspp=None,
        concatenation=dict(
            module='decode_head.sep_bottleneck',
            at='input',
            step_size=1.5 / 255,
            reinject=True,
            moments='channel',
            weight=0.1)))
