# Do the default recipe and the economy recipe help a thin ResNet on few pictures of hands that show digits, against all
# controls? No image of these was used to choose anything, and validation has other persons.
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
tap = 'model.afan.taps.backbone'

arms = {
    'baseline': dict(stock=True),
    # A step of A-FAN costs less than two of the baseline's. Its weights sum to 1: the baseline at equal loss scale is
    # the baseline.
    'equal compute': dict(stock=True, control=True, options={'train_cfg.max_epochs': 180, 'train_cfg.val_interval': 180}),
    'zero step': dict(control=True, options={f'{tap}.step_size': 0.0}),
    'noise': dict(control=True, options={f'{tap}.direction': 'random_sign'}),
    'A-FAN': dict(),
    'economy': dict(options={f'{tap}.module': 'backbone.layer3', f'{tap}.fraction': 0.5}),
    'MoEx': dict(stock=True, options=dict(custom_hooks=[dict(type='mmafan.MomentExchangeHook')])),
}
cost_repeats = 5
del load, pack, resize, tap
