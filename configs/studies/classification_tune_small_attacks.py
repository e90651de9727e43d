# Which tap, step, schedule and statistics where a thin ResNet learns 600 images of CIFAR-10 by heart? One seed: a look
# at many attacks, of which few are looked at again. Trains on images 0 to 59 of each class, validates on 800 to 999.
config = '../mmpretrain/resnet14w16_afan_cifar10-tenth.py'
metric = 'accuracy/top1'
seeds = [200]
load, pack = dict(type='LoadImageFromFile'), dict(type='PackInputs')
flip = dict(type='RandomFlip', prob=0.5, direction='horizontal')
options = {
    'train_dataloader.batch_size': 32,
    'train_dataloader.dataset.indices': [1000 * c + i for c in range(10) for i in range(60)],
    'train_dataloader.dataset.pipeline': [load, flip, pack],
    'val_dataloader.dataset.datasets': [
        dict(type='CustomDataset', data_root='data/cifar10_jpg', data_prefix='train',
             indices=[1000 * c + i for c in range(10) for i in range(800, 1000)], pipeline=[load, pack])],
    'default_hooks.checkpoint.interval': 1000,
    'train_cfg.max_epochs': 40,
    'train_cfg.val_interval': 40,
    'optim_wrapper.optimizer.lr': 0.05,
}


def arm(module='backbone.relu', step_size=0.1, weight=1.0, clean=1.0, **fields):
    fields = dict(dict(strengths=(1.0, ), reinject=False), module=module, step_size=step_size, weight=weight,
                  strength_sampling='all', **fields)
    return dict(options={
        'model.afan.clean_weight': clean, **{f'model.afan.taps.backbone.{k}': v for k, v in fields.items()}})


def hook(one, **fields):
    return dict(one, options={**one['options'], 'custom_hooks': [dict(type='mmafan.AdvFeatureHook', **fields)]})


arms = {
    'baseline': dict(stock=True),
    'equal compute': dict(stock=True, options={'train_cfg.max_epochs': 78, 'train_cfg.val_interval': 78}),
    'stem 0.1': arm(),
    'stem 0.2': arm(step_size=0.2),
    'stem 0.1 ramp': hook(arm(), ramp=40),
    'stem 0.2 begin 20': hook(arm(step_size=0.2), begin=20),
    'stem 0.1, 0.5+0.5': arm(weight=0.5, clean=0.5),
    'stem noise 0.1': arm(direction='random_sign'),
    'layer1 0.1': arm('backbone.layer1'),
    'layer1 0.3': arm('backbone.layer1', 0.3),
    'stem 0.3 reinject channel': arm(step_size=0.3, reinject=True),
    'stem 0.3 reinject instance': arm(step_size=0.3, reinject=True, moments='instance'),
}
del arm, flip, hook, load, pack
