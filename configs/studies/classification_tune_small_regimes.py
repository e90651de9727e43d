# Where does an attack at the stem of a thin ResNet help: how many images, with crops, with wrong labels? And with which
# step: always the same, or one that follows how well the training set is fitted? Images and seed that report nothing.
config = '../mmpretrain/resnet14w16_afan_cifar10-tenth.py'
metric = 'accuracy/top1'
also = ('training accuracy/top1', )
measures = dict(training=dict(data='train'))
seeds = [200]
load, pack = dict(type='LoadImageFromFile'), dict(type='PackInputs')
flip = dict(type='RandomFlip', prob=0.5, direction='horizontal')
crop = dict(type='RandomCrop', crop_size=32, padding=4)


def data(count, epochs, pipeline=[load, flip, pack], wrong=0.0):
    """``count`` images of each class."""
    dataset = dict(
        type='CustomDataset', data_root='data/cifar10_jpg', data_prefix='train',
        indices=[1000 * c + i for c in range(10) for i in range(count)],
        pipeline=pipeline)
    if wrong:
        dataset = dict(type='mmafan.RedrawnLabels', dataset=dataset, share=wrong, num_classes=10)
    return dict(options={
        'train_dataloader.batch_size': 32, 'train_dataloader.dataset': dict(_delete_=True, **dataset),
        'train_cfg.max_epochs': epochs, 'train_cfg.val_interval': epochs})


data_sets = {
    'n60': data(60, 40),
    'n60crop': data(60, 120, [load, crop, flip, pack]),
    'n60wrong': data(60, 40, wrong=0.4),
    'n20': data(20, 90),
    'n200': data(200, 30),
}
options = {
    'val_dataloader.dataset.datasets': [
        dict(type='CustomDataset', data_root='data/cifar10_jpg', data_prefix='train',
             indices=[1000 * c + i for c in range(10) for i in range(800, 1000)], pipeline=[load, pack])],
    'default_hooks.checkpoint.interval': 1000,
    'optim_wrapper.optimizer.lr': 0.05,
}


def arm(module='backbone.relu', step_size=0.1, weight=1.0, clean=1.0, hook={}, **fields):
    fields = dict(dict(strengths=(1.0, ), reinject=False, strength_sampling='all'), module=module, step_size=step_size,
                  weight=weight, **fields)
    return dict(options={
        'model.afan.clean_weight': clean, **{f'model.afan.taps.backbone.{k}': v for k, v in fields.items()},
        'custom_hooks': [dict(type='mmafan.AdvFeatureHook', **hook)]})


arms = {
    'baseline': dict(stock=True),
    'stem 0.1': arm(),
    'stem 0.2 fit 0.3': arm(step_size=0.2, hook=dict(fit_threshold=0.3)),
    'stem 0.1 fit 1': arm(hook=dict(fit_threshold=1.0)),
}
del arm, crop, data, flip, load, pack
