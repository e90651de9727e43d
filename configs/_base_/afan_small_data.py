_base_ = './afan_small_data_recipe.py'

# The recipe for small data sets and its hook. A config that lists this file beside a stock config takes its fields with
# `model = dict(afan=_base_.afan_recipe)`: `model` itself cannot come from two bases.
custom_hooks = [dict(type='mmafan.AdvFeatureHook', fit_threshold=0.3)]
