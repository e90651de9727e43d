# Does A-FAN help a small ResNet on few handwritten digits, against all controls? None of the images was used
# to choose its settings (classification_tune_digits.py).
config = '../mmpretrain/resnet_afan_digits.py'
metric = 'accuracy/top1'
seeds = 5
quarters = [list(range(start, 899, 4)) for start in range(4)]  # of the images that are not for testing
options = {
    'train_dataloader.dataset.num_train_samples': None,
    'train_dataloader.dataset.indices': quarters[1],
    'train_cfg.max_epochs': 60,
    'train_cfg.val_interval': 60,
    'default_hooks.checkpoint.interval': 60,
    'model.afan.clean_weight': 0.5,
    'model.afan.taps.stage1': dict(
        module='backbone.layer2', step_size=0.01, step_unit='std', strengths=(1.0, ), reinject=False, weight=0.5),
}
tap = 'model.afan.taps.stage1'

arms = {
    'baseline': dict(stock=True),
    # A-FAN computes as much as 88 epochs of the baseline. Its weights sum to 1: the baseline at equal loss scale is the
    # baseline.
    'equal compute': dict(stock=True, control=True, options={'train_cfg.max_epochs': 90, 'train_cfg.val_interval': 90}),
    'twice the schedule': dict(stock=True, options={'train_cfg.max_epochs': 120, 'train_cfg.val_interval': 120,
                                                    'default_hooks.checkpoint.interval': 120}),
    'zero step': dict(control=True, options={f'{tap}.step_size': 0.0}),
    # Noise of the size of the attack, and of ten times that.
    'noise 0.01': dict(control=True, options={f'{tap}.direction': 'random_sign'}),
    'noise 0.1': dict(control=True, options={f'{tap}.direction': 'random_sign', f'{tap}.step_size': 0.1}),
    'A-FAN': dict(),
}
del quarters, tap
