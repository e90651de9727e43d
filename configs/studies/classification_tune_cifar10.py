# Which tap and step size for classification, on a tenth of CIFAR-10 and a schedule that is too short for it?
config = '../mmpretrain/resnet14w16_afan_cifar10-tenth.py'
metric = 'accuracy/top1'
seeds = [100]
tenths = [list(range(start, 10000, 10)) for start in range(10)]
options = {
    'train_dataloader.dataset.indices': tenths[0],
    'val_dataloader.dataset.datasets': [
        dict(
            type='CustomDataset',
            data_root='data/cifar10_jpg',
            data_prefix='train',
            indices=tenths[5] + tenths[6],
            pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')])
    ],
    'default_hooks.checkpoint.interval': 30,
}


def arm(module, step_size, **fields):
    fields = dict(dict(strengths=(1.0, ), reinject=False), module=module, step_size=step_size, **fields)
    return dict(options={
        'model.afan.clean_weight': 0.5, **{f'model.afan.taps.backbone.{k}': v for k, v in fields.items()}})


arms = {
    'baseline': dict(stock=True),
    'layer2 0.01': arm('backbone.layer2', 0.01),
    'layer2 0.03': arm('backbone.layer2', 0.03),
    'layer2 0.1 re-injected': arm('backbone.layer2', 0.1, reinject=True),
    'layer1 0.01': arm('backbone.layer1', 0.01),
    'layer3 0.03': arm('backbone.layer3', 0.03),
    'layer3 0.1': arm('backbone.layer3', 0.1),
    'neck 0.1': arm('neck', 0.1),
}
del arm, tenths
