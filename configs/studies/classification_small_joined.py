# Does the joined schedule keep what the exact one gains, for what it costs? The recipe for small data sets and a thin
# ResNet, on other images and with other seeds than classification_small_cifar10.py: images 460 to 519 of each class
# train, and images 600 to 799 validate.
config = '../mmpretrain/resnet14w16_afan-small-data_cifar10-600.py'
metric = 'accuracy/top1'
also = ('training accuracy/top1', )
measures = dict(training=dict(data='train'))
seeds = [300, 301, 302, 303, 304]
load, pack = dict(type='LoadImageFromFile'), dict(type='PackInputs')
options = {
    'default_hooks.checkpoint.interval': 1000,
    'train_dataloader.dataset.indices': [1000 * c + i for c in range(10) for i in range(460, 520)],
    'val_dataloader.dataset': dict(
        _delete_=True, type='CustomDataset', data_root='data/cifar10_jpg', data_prefix='train',
        indices=[1000 * c + i for c in range(10) for i in range(600, 800)], pipeline=[load, pack]),
}
schedule, fraction, every = 'model.afan.schedule', 'model.afan.taps.backbone.fraction', 'model.afan.taps.backbone.every'
arms = {
    'baseline': dict(stock=True),
    'A-FAN': dict(),
    'joined, p = 1': dict(options={schedule: 'joined'}),
    'joined, p = 0.5': dict(options={schedule: 'joined', fraction: 0.5}),
    'joined, p = 0.25': dict(options={schedule: 'joined', fraction: 0.25}),
    'every = 2': dict(options={every: 2}),
    'every = 4': dict(options={every: 4}),
}
del every, fraction, load, pack, schedule
