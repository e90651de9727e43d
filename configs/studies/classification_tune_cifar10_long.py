# The question of classification_tune_cifar10.py with half of its images, four times its iterations and three seeds, for
# which twice the schedule is hardly better, and with noise in front of other stages.
_base_ = './classification_tune_cifar10.py'
seeds = [100, 101, 102]
options = {
    'train_dataloader.batch_size': 25,
    'train_dataloader.dataset.indices': list(range(0, 10000, 20)),  # 50 of each class, every other one of tenth 0
    'optim_wrapper.optimizer.lr': 0.05,
    'train_cfg.max_epochs': 120,
    'train_cfg.val_interval': 120,
    'default_hooks.checkpoint.interval': 60,
}


def arm(module, step_size, **fields):
    fields = dict(dict(strengths=(1.0, ), reinject=False), module=module, step_size=step_size, **fields)
    return dict(options={
        'model.afan.clean_weight': 0.5, **{f'model.afan.taps.backbone.{k}': v for k, v in fields.items()}})


def weights(one, clean, adversarial):
    return dict(options={
        **one['options'], 'model.afan.clean_weight': clean, 'model.afan.taps.backbone.weight': adversarial})


arms = {
    '_delete_': True,
    'baseline': dict(stock=True),
    'twice the schedule': dict(stock=True, control=True, options={
        'train_cfg.max_epochs': 240, 'train_cfg.val_interval': 240}),
    'equal loss scale': dict(stock=True, control=True, options={'optim_wrapper.optimizer.lr': 0.075}),
    'zero step': dict(arm('backbone.layer2', 0.0), control=True),
    'zero step, 1 + 0.5': dict(weights(arm('backbone.layer2', 0.0), 1.0, 0.5), control=True),
    'layer2 0.01': arm('backbone.layer2', 0.01),
    'layer2 0.1': arm('backbone.layer2', 0.1),
    'layer2 0.1, 1 + 0.5': weights(arm('backbone.layer2', 0.1), 1.0, 0.5),
    'layer2 0.3 re-injected': arm('backbone.layer2', 0.3, reinject=True),
    'layer1 0.03': arm('backbone.layer1', 0.03),
    'layer3 0.1': arm('backbone.layer3', 0.1),
    'neck 0.1': arm('neck', 0.1),
    'neck 0.1, 1 + 0.5': weights(arm('neck', 0.1), 1.0, 0.5),
    'layer1 0.3 noise': arm('backbone.layer1', 0.3, direction='random_sign'),
    'layer2 0.3 noise': arm('backbone.layer2', 0.3, direction='random_sign'),
}
del arm, weights
