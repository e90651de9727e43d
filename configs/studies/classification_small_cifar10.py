# Does the recipe for small data sets help a thin ResNet on 600 images of CIFAR-10, against every control and what a
# user would pick instead? What was chosen was chosen on other images with other seeds (classification_tune_small*.py).
config = '../mmpretrain/resnet14w16_afan-small-data_cifar10-600.py'
metric = 'accuracy/top1'
also = ('training accuracy/top1', 'corrupted accuracy/top1', 'calibration/ece')
measures = dict(
    training=dict(data='train'),
    corrupted=dict(corruptions=('gaussian_noise', 'contrast', 'jpeg_compression', 'pixelate'), severities=(3, ),
                   options={'val_dataloader.dataset.indices': list(range(0, 2000, 4))}))
seeds = 8
options = {'default_hooks.checkpoint.interval': 1000}
afan = 'model.afan.taps.backbone'


def epochs(count):
    return {'train_cfg.max_epochs': count, 'train_cfg.val_interval': count}


def augment(length, **fields):
    return {'model.train_cfg': dict(augments=dict(**fields)), **length}


arms = {
    'baseline': dict(stock=True),
    # What A-FAN computes with every step attacked: 1.93 times as much.
    'equal compute': dict(stock=True, control=True, options=epochs(78)),
    'shorter schedule': dict(stock=True, control=True, options=epochs(20)),
    'learning rate x 1.5': dict(stock=True, control=True, options={'optim_wrapper.optimizer.lr': 0.075}),
    'weight decay x 10': dict(stock=True, control=True, options={'optim_wrapper.optimizer.weight_decay': 5e-3}),
    'zero step': dict(control=True, options={f'{afan}.step_size': 0.0}),
    'noise': dict(control=True, options={f'{afan}.direction': 'random_sign'}),
    'noise, tuned size': dict(control=True, options={f'{afan}.direction': 'random_sign', f'{afan}.step_size': 0.1}),
    'A-FAN': dict(),
    'label smoothing': dict(stock=True, options={'model.head.loss': dict(
        _delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'), **epochs(78)}),
    'mixup': dict(stock=True, options=augment(epochs(78), type='Mixup', alpha=0.8)),
    'CutMix': dict(stock=True, options=augment(epochs(78), type='CutMix', alpha=1.0)),
}
del afan, augment, epochs
