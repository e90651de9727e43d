# The question of classification_tune_cifar10.py on handwritten digits; the images are not those of
# classification_digits.py.
config = '../mmpretrain/resnet_afan_digits.py'
metric = 'accuracy/top1'
seeds = [100, 101, 102]
quarters = [list(range(start, 899, 4)) for start in range(4)]  # of the images that are not for testing
options = {
    'train_dataloader.dataset.num_train_samples': None,
    'train_dataloader.dataset.indices': quarters[0],
    'val_dataloader.dataset.split': 'train',
    'val_dataloader.dataset.indices': quarters[2] + quarters[3],
    'default_hooks.checkpoint.interval': 30,
    'train_cfg.val_interval': 30,
}


def arm(module, step_size, options={}, **fields):
    fields = dict(dict(strengths=(1.0, ), reinject=False, weight=0.5, module=module, step_size=step_size), **fields)
    return dict(options={
        **{f'model.afan.taps.stage1.{k}': v for k, v in fields.items()}, 'model.afan.clean_weight': 0.5, **options})


arms = {
    'baseline': dict(stock=True),
    'layer2 0.01': arm('backbone.layer2', 0.01),
    'layer2 0.03': arm('backbone.layer2', 0.03),
    'layer2 0.1': arm('backbone.layer2', 0.1),
    'layer2 0.3 re-injected': arm('backbone.layer2', 0.3, reinject=True),
    'layer1 0.03': arm('backbone.layer1', 0.03),
    'layer1 0.1': arm('backbone.layer1', 0.1),
    'layer4 0.1': arm('backbone.layer4', 0.1),
    'neck 0.1': arm('neck', 0.1),
    'neck 0.3': arm('neck', 0.3),
    'layer2 0.003': arm('backbone.layer2', 0.003),
    'layer2 0.03, weight 0.2': arm('backbone.layer2', 0.03, {'model.afan.clean_weight': 0.8}, weight=0.2),
    'layer2 0.03, separate norms': arm('backbone.layer2', 0.03, {'model.afan.batch_norm': 'separate'}),
    'layer1 0.3 noise': arm('backbone.layer1', 0.3, direction='random_sign'),
}
del arm, quarters
