# Does A-FAN help a thin ResNet on few pictures of hands that show digits, against all controls? No image of these was
# used to choose anything, and validation has other persons.
config = '../mmpretrain/resnet14w16_afan_cifar10-tenth.py'
metric = 'accuracy/top1'
seeds = 5
resize = dict(type='Resize', scale=(32, 32), interpolation='area')
load = dict(type='LoadImageFromFile')
pack = dict(type='PackInputs')
options = {
    'train_dataloader.batch_size': 20,
    'optim_wrapper.optimizer.lr': 0.05,
    'default_hooks.checkpoint.interval': 90,
    'train_cfg.max_epochs': 90,
    'train_cfg.val_interval': 90,
    # 10 of the 100 images of each class: few enough to be learned by heart.
    'train_dataloader.dataset.data_root': 'data/signdigits',
    'train_dataloader.dataset.indices': [i for i in range(1000) if i % 100 < 10],
    'train_dataloader.dataset.pipeline': [load, resize, dict(type='RandomCrop', crop_size=32, padding=4), pack],
    'val_dataloader.dataset.datasets': [
        dict(type='CustomDataset', data_root='data/signdigits', data_prefix='test', pipeline=[load, resize, pack])],
}


def arm(**fields):
    """With the weights of classification_tune_weights.py."""
    fields = {f'model.afan.taps.backbone.{k}': v for k, v in dict(fields, weight=0.5).items()}
    return {'model.afan.clean_weight': 1.0, **fields}


arms = {
    'baseline': dict(stock=True),
    # A-FAN computes as much as 116 epochs of the baseline.
    'equal compute': dict(
        stock=True, control=True, options={'train_cfg.max_epochs': 117, 'train_cfg.val_interval': 117}),
    'twice the schedule': dict(stock=True, options={'train_cfg.max_epochs': 180, 'train_cfg.val_interval': 180}),
    # The sum of the weights of the terms, in the learning rate.
    'equal loss scale': dict(stock=True, control=True, options={'optim_wrapper.optimizer.lr': 0.075}),
    'zero step': dict(control=True, options=arm(step_size=0.0)),
    'noise': dict(control=True, options=arm(direction='random_sign')),
    'A-FAN': dict(options=arm()),
}
del arm, load, pack, resize
