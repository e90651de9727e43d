# The authors' optimizer and schedule with the economy recipe of _base_/afan_economy.py.
_base_ = './resnet56s_afan_cifar10.py'

model = dict(
    afan=dict(
        taps=dict(
            backbone=dict(
                module='backbone.layer2',
                step_size=0.1,
                step_unit='std',
                num_steps=1,
                strengths=(0.25, 0.5, 0.75, 1.0),
                strength_sampling='random',
                reinject=(False, False, True, True),
                fraction=0.5)),
        batch_norm='batch'))
