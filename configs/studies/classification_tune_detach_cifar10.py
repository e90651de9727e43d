# What if adversarial terms train the stages before the tap too? On the images of classification_tune_cifar10_long.py.
_base_ = './classification_tune_cifar10_long.py'


def arm(module, step_size, **fields):
    fields = dict(dict(strengths=(1.0, ), reinject=False, detach=False), module=module, step_size=step_size, **fields)
    return dict(options={f'model.afan.taps.backbone.{k}': v for k, v in fields.items()})


arms = {
    '_delete_': True,
    'baseline': dict(stock=True),
    'layer2 0.3 noise': dict(arm('backbone.layer2', 0.3, direction='random_sign'), control=True),
    'layer2 0.1': arm('backbone.layer2', 0.1),
    'layer2 0.3': arm('backbone.layer2', 0.3),
    'layer2 0.3 re-injected': arm('backbone.layer2', 0.3, reinject=True),
    'layer2 1 re-injected': arm('backbone.layer2', 1.0, reinject=True),
    'layer1 0.3 re-injected': arm('backbone.layer1', 0.3, reinject=True),
    'layer3 0.3 re-injected': arm('backbone.layer3', 0.3, reinject=True),
    # Trains the stages after the tap alone.
    'layer2 0.3 re-injected, detached': arm('backbone.layer2', 0.3, reinject=True, detach=True),
}
del arm
