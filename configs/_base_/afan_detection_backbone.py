_base_ = './afan_recipe.py'

# The default recipe for detectors without a RoI head, such as RetinaNet, RTMDet and DINO. A config that lists this
# file beside a stock config takes its fields with `model = dict(afan=_base_.afan_recipe)`, and adds
# dict(type='mmafan.AdvFeatureHook') to the hooks of the stock config. The weights of the clean and the adversarial term
# sum to 1, as in the other recipes for detection: another clean weight was measured on classifiers alone.
afan_recipe = dict(clean_weight=0.5)
