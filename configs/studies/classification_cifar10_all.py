# The controls of classification_cifar10.py on all 10,000 images of the training folder, 15 epochs, validated on the
# test images.
_base_ = './classification_tune_cifar10.py'
seeds = 5
options = {
    '_delete_': True,
    'train_dataloader.batch_size': 100,
    'train_dataloader.dataset.indices': list(range(10000)),
    'val_dataloader.dataset.datasets': [
        dict(
            type='CustomDataset',
            data_root='data/cifar10_jpg',
            data_prefix='test',
            pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')])
    ],
    'train_cfg.max_epochs': 15,
    'train_cfg.val_interval': 15,
    'default_hooks.checkpoint.interval': 5,
}


halves = {'model.afan.clean_weight': 0.5}


def tap(options={}, **fields):
    return dict(options={**options, **{f'model.afan.taps.backbone.{k}': v for k, v in fields.items()}})


arms = {
    '_delete_': True,
    'baseline': dict(stock=True),
    # A-FAN computes as much as 19.3 epochs of the baseline.
    'equal compute': dict(stock=True, control=True, options={
        'train_cfg.max_epochs': 20, 'train_cfg.val_interval': 20}),
    'equal loss scale': dict(stock=True, control=True, options={'optim_wrapper.optimizer.lr': 0.15}),
    'zero step': dict(tap(step_size=0.0), control=True),
    'noise': dict(tap(direction='random_sign'), control=True),
    'A-FAN': dict(),
    # Weights of 1/2 and 1/2, which halve the gradient of the stages before the tap.
    'zero step, 0.5 + 0.5': dict(tap(halves, step_size=0.0), control=True),
    'noise, 0.5 + 0.5': dict(tap(halves, direction='random_sign'), control=True),
    'A-FAN, 0.5 + 0.5': tap(halves),
}
del tap, halves
