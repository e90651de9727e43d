# classification_tune_small_regimes.py with still fewer images, and with fewer wrong labels.
_base_ = './classification_tune_small_regimes.py'
load, pack = dict(type='LoadImageFromFile'), dict(type='PackInputs')
flip = dict(type='RandomFlip', prob=0.5, direction='horizontal')


def data(count, batch_size, epochs, pipeline=[load, flip, pack], wrong=0.0):
    """``count`` images of each class."""
    dataset = dict(
        type='CustomDataset', data_root='data/cifar10_jpg', data_prefix='train',
        indices=[1000 * c + i for c in range(10) for i in range(count)],
        pipeline=pipeline)
    if wrong:
        dataset = dict(type='mmafan.RedrawnLabels', dataset=dataset, share=wrong, num_classes=10)
    return dict(options={
        'train_dataloader.batch_size': batch_size, 'train_dataloader.dataset': dict(_delete_=True, **dataset),
        'optim_wrapper.optimizer.lr': 0.05, 'train_cfg.max_epochs': epochs, 'train_cfg.val_interval': epochs})


data_sets = {'_delete_': True, 'n60wrong20': data(60, 32, 40, wrong=0.2), 'n10': data(10, 20, 150)}
arms = {'_delete_': True, **{name: _base_.arms[name] for name in ('baseline', 'stem 0.2 fit 0.3', 'stem 0.1')}}
del data, flip, load, pack
