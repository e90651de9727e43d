# The authors' published recipe (main_perturb.py): five attack steps, one strength, no re-injection.
_base_ = './resnet56s_cifar10.py'

custom_hooks = [dict(type='mmafan.AdvFeatureHook')]

model = dict(
    type='mmafan.AFANImageClassifier',
    afan=dict(
        taps=dict(
            backbone=dict(
                module='backbone.layer1',
                step_size=0.5 / 255,
                num_steps=5,
                strengths=(1.0, ),
                reinject=False,
                weight=0.5)),
        clean_weight=0.5,
        batch_norm='shared'))
