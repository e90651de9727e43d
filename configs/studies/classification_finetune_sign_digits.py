# Does the recipe for small data sets help a network that was trained on CIFAR-10 (ResNet-20 of akamaster's
# pytorch_resnet_cifar10) to learn hands that show digits from 10 images of each, without augmentation, against the
# controls? Validation has other persons.
config = '../mmpretrain/resnet14w16_afan-small-data_cifar10-600.py'
metric = 'accuracy/top1'
also = ('training accuracy/top1', 'calibration/ece')
measures = dict(training=dict(data='train'))
seeds = 8
load, pack = dict(type='LoadImageFromFile'), dict(type='PackInputs')
pipeline = [load, dict(type='Resize', scale=(32, 32), interpolation='area'), pack]
folder = dict(_delete_=True, type='CustomDataset', data_root='data/signdigits', pipeline=pipeline)
options = {
    'model.backbone': dict(
        _delete_=True, type='mmafan.CIFARResNet', depth=20,
        init_cfg=dict(type='Pretrained', checkpoint='data/weights/resnet20-12fca82f.th')),
    'model.head.in_channels': 64,
    'data_preprocessor.mean': [123.675, 116.28, 103.53],
    'data_preprocessor.std': [58.395, 57.12, 57.375],
    'train_dataloader.batch_size': 20,
    'train_dataloader.dataset': dict(
        folder, data_prefix='train', indices=[i for i in range(1000) if i % 100 in range(3, 50, 5)]),
    'val_dataloader.dataset': dict(folder, data_prefix='test'),
    'default_hooks.checkpoint.interval': 1000,
    'optim_wrapper.optimizer.lr': 0.01,
    'train_cfg.max_epochs': 60,
    'train_cfg.val_interval': 60,
}
afan = 'model.afan.taps.backbone'
arms = {
    'baseline': dict(stock=True),
    'equal compute': dict(
        stock=True, control=True, options={'train_cfg.max_epochs': 118, 'train_cfg.val_interval': 118}),
    'learning rate x 1.5': dict(stock=True, control=True, options={'optim_wrapper.optimizer.lr': 0.015}),
    'zero step': dict(control=True, options={f'{afan}.step_size': 0.0}),
    'noise': dict(control=True, options={f'{afan}.direction': 'random_sign'}),
    'A-FAN': dict(),
}
del afan, folder, load, pack, pipeline
