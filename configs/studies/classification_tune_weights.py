# Which weights for the clean and the adversarial terms? An adversarial pass trains what comes after its tap alone, so
# that weights of 1/2 and 1/2 halve the gradient of what comes before. Hands that show digits; none of the images that
# validate here is one of classification_sign_digits.py.
config = '../mmpretrain/resnet14w16_afan_cifar10-tenth.py'
metric = 'accuracy/top1'
seeds = [100, 101]
resize = dict(type='Resize', scale=(32, 32), interpolation='area')
load = dict(type='LoadImageFromFile')
pack = dict(type='PackInputs')
options = {
    'train_dataloader.batch_size': 20,
    'optim_wrapper.optimizer.lr': 0.05,
    'default_hooks.checkpoint.interval': 90,
    'train_cfg.max_epochs': 90,
    'train_cfg.val_interval': 90,
    'train_dataloader.dataset.data_root': 'data/signdigits',
    'train_dataloader.dataset.indices': [i for i in range(1000) if 10 <= i % 100 < 20],
    'train_dataloader.dataset.pipeline': [load, resize, dict(type='RandomCrop', crop_size=32, padding=4), pack],
    'val_dataloader.dataset.datasets': [
        dict(type='CustomDataset', data_root='data/signdigits', data_prefix='train',
             indices=[i for i in range(1000) if i % 100 >= 60], pipeline=[load, resize, pack])],
}


def arm(clean_weight, weight, **fields):
    fields = {f'model.afan.taps.backbone.{k}': v for k, v in dict(fields, weight=weight).items()}
    return dict(options={'model.afan.clean_weight': clean_weight, **fields})


arms = {
    'baseline': dict(stock=True),
    'zero step, 0.5 + 0.5': arm(0.5, 0.5, step_size=0.0),
    'zero step, 1 + 0.5': arm(1.0, 0.5, step_size=0.0),
    'A-FAN, 0.5 + 0.5': arm(0.5, 0.5),
    'A-FAN, 1 + 0.5': arm(1.0, 0.5),
    'A-FAN 0.1, 1 + 0.5': arm(1.0, 0.5, step_size=0.1),
}
cost_repeats = 0
del arm, load, pack, resize
