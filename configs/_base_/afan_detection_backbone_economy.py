_base_ = './afan_detection_backbone.py'

# A later tap, and half of the images in the adversarial pass.
afan_recipe = dict(taps=dict(backbone=dict(module='backbone.layer3', fraction=0.5)))
