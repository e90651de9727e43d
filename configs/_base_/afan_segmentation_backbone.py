_base_ = './afan_segmentation.py'

# The backbone tap of the default recipe alone, for segmentors without an ASPP.
afan_recipe = dict(taps=dict(backbone=dict(weight=0.5), aspp=None))
