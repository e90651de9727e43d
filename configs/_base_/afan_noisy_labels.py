# The recipe for training sets with many wrong labels: the step of afan_small_data.py, half as large, from the first
# iteration on. The network must be kept from learning the labels by heart, so it does not wait until it has. Where
# labels are right it costs accuracy with crops, because it slows fitting (docs/when_to_use.md).
_base_ = './afan_small_data.py'

afan_recipe = dict(taps=dict(backbone=dict(step_size=0.1)))
custom_hooks = [dict(type='mmafan.AdvFeatureHook')]
