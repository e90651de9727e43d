# The demo with A-FAN: features after the first stage, one step, two strengths, the stronger one re-injected.
_base_ = './resnet_digits.py'

custom_hooks = [dict(type='mmafan.AdvFeatureHook')]

model = dict(
    type='mmafan.AFANImageClassifier',
    afan=dict(
        taps=dict(
            stage1=dict(
                module='backbone.layer1',
                step_size=0.2,
                step_unit='std',
                strengths=(0.5, 1.0),
                reinject=(False, True),
                weight=0.5))))
