# Economy: does it matter which half of the samples is attacked? The half with the largest gradients
# of the clean loss, against a random half; the images of classification_tune_digits.py.
config = '../mmpretrain/resnet_afan_digits.py'
metric = 'accuracy/top1'
seeds = [100, 101, 102, 103, 104]
quarters = [list(range(start, 899, 4)) for start in range(4)]
options = {
    'train_dataloader.dataset.num_train_samples': None,
    'train_dataloader.dataset.indices': quarters[0],
    'val_dataloader.dataset.split': 'train',
    'val_dataloader.dataset.indices': quarters[2] + quarters[3],
    'default_hooks.checkpoint.interval': 30,
    'train_cfg.val_interval': 30,
    'model.afan.clean_weight': 0.5,
    'model.afan.taps.stage1': dict(
        module='backbone.layer2', step_size=0.03, step_unit='std', strengths=(1.0, ), reinject=False, weight=0.5),
}
tap = 'model.afan.taps.stage1'
arms = {
    'baseline': dict(stock=True),
    'all': dict(),
    'random half': dict(options={f'{tap}.fraction': 0.5}),
    'half with the largest gradients': dict(options={f'{tap}.fraction': 0.5, f'{tap}.selection': 'gradient'}),
    'quarter with the largest gradients': dict(options={f'{tap}.fraction': 0.25, f'{tap}.selection': 'gradient'}),
}
cost_repeats = 5
del quarters, tap
