_base_ = './afan_segmentation_economy.py'

# The backbone tap of the economy recipe alone, for segmentors without an ASPP; the weights sum to 1 on average.
afan_recipe = dict(taps=dict(backbone=dict(weight=0.2), aspp=None))
