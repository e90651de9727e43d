_base_ = './afan_detection.py'

# On VOC the published step at the backbone is ten times that on COCO.
afan_recipe = dict(taps=dict(backbone=dict(step_size=1 / 255)))
