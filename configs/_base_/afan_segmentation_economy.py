_base_ = './afan_segmentation.py'

# At most 1.2 stock steps: one image in eight at the backbone, whose tail is most of the network, and
# one in four at the ASPP. A batch norm needs two images, so with the four per process of the stock
# VOC configs two images take part in every fourth and in every second step and count four times and
# twice there: the weights sum to 1 (0.8 + 0.1 + 0.1) on average.
afan_recipe = dict(
    taps=dict(backbone=dict(fraction=0.125, weight=0.1), aspp=dict(fraction=0.25)), clean_weight=0.8)
