_base_ = './afan_backbone.py'

# A later tap, and half of the samples in the adversarial pass: at most 1.2 stock steps.
afan_recipe = dict(taps=dict(backbone=dict(module='backbone.layer3', fraction=0.5)))
