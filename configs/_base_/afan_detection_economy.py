_base_ = './afan_detection.py'

# At most 1.25 stock steps: one drawn strength in place of four passes, and one image in eight. With
# the two images per process of the stock configs the backbone's adversarial pass runs in every
# fourth step and counts four times there: the weights sum to 1 (0.8 + 0.1 + 0.1) on average.
afan_recipe = dict(
    taps=dict(backbone=dict(strength_sampling='random', fraction=0.125)), clean_weight=0.8)
