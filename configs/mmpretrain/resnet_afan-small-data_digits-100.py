# The demo with A-FAN: the recipe for small data sets and its hook, as in ../_base_/afan_small_data.py (written out, as
# two bases cannot both have custom_imports).
_base_ = './resnet_digits-100.py'

custom_hooks = [dict(type='mmafan.AdvFeatureHook', fit_threshold=0.3)]
model = dict(
    type='mmafan.AFANImageClassifier',
    afan=dict(
        taps=dict(backbone=dict(module='backbone.relu', step_size=0.2, step_unit='std', weight=1.0)),
        clean_weight=1.0,
        batch_norm='batch'))
