# Does the recipe for small data sets help an EfficientNet-Lite0 that was trained on ImageNet
# (tools/model_converters/efficientnet_lite.py) to learn hands that show digits from 10 images of each, without
# augmentation, against the controls? Validation has other persons.
config = '../mmpretrain/resnet14w16_afan-small-data_cifar10-600.py'
metric = 'accuracy/top1'
also = ('training accuracy/top1', 'calibration/ece')
measures = dict(training=dict(data='train'))
seeds = 4
load, pack = dict(type='LoadImageFromFile'), dict(type='PackInputs')
pipeline = [load, dict(type='Resize', scale=(64, 64), interpolation='area'), pack]
folder = dict(_delete_=True, type='CustomDataset', data_root='data/signdigits', pipeline=pipeline)
afan = 'model.afan.taps.backbone'
options = {
    'model.backbone': dict(
        _delete_=True, type='mmafan.EfficientNetLite',
        init_cfg=dict(type='Pretrained', checkpoint='data/weights/efficientnet_lite0.pth')),
    'model.head.in_channels': 1280,
    f'{afan}.module': 'backbone.layers.0',
    'data_preprocessor.mean': [127.0, 127.0, 127.0],
    'data_preprocessor.std': [128.0, 128.0, 128.0],
    'train_dataloader.batch_size': 20,
    'train_dataloader.dataset': dict(
        folder, data_prefix='train', indices=[i for i in range(1000) if i % 100 in range(3, 50, 5)]),
    'val_dataloader.dataset': dict(folder, data_prefix='test'),
    'default_hooks.checkpoint.interval': 1000,
    'optim_wrapper.optimizer.lr': 0.01,
    'train_cfg.max_epochs': 30,
    'train_cfg.val_interval': 30,
}
arms = {
    'baseline': dict(stock=True),
    'equal compute': dict(
        stock=True, control=True, options={'train_cfg.max_epochs': 59, 'train_cfg.val_interval': 59}),
    'noise': dict(control=True, options={f'{afan}.direction': 'random_sign'}),
    'A-FAN': dict(),
}
del afan, folder, load, pack, pipeline
