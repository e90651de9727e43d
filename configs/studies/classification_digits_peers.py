# The study of classification_digits.py with what a user would pick instead of A-FAN, alone and together with it, with
# the published step, and with the way of the economy recipes to save time.
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
exchange = dict(type='mmafan.MomentExchangeHook')


def augment(kind):
    return {'model.train_cfg': dict(augments=dict(type=kind, alpha=1.0))}


arms = {
    'baseline': dict(stock=True),
    # A-FAN computes as much as 88 epochs of the baseline.
    'equal compute': dict(stock=True, control=True, options={'train_cfg.max_epochs': 90, 'train_cfg.val_interval': 90}),
    'twice the schedule': dict(stock=True, options={'train_cfg.max_epochs': 120, 'train_cfg.val_interval': 120,
                                                    'default_hooks.checkpoint.interval': 120}),
    'A-FAN': dict(),
    # A late tap and half of the samples.
    'economy': dict(options={f'{tap}.module': 'backbone.layer3', f'{tap}.fraction': 0.5}),
    # The authors' size, tap and norms, with one step.
    'published': dict(options={
        f'{tap}.module': 'backbone.layer1', f'{tap}.step_size': 0.5 / 255, f'{tap}.step_unit': 'absolute',
        'model.afan.batch_norm': 'shared'}),
    # AdvProp's idea: images, attacked within 1/255 of the range, and norms of their own for them.
    'input': dict(options={
        f'{tap}.module': 'inputs', f'{tap}.step_size': 1 / 96, f'{tap}.step_unit': 'absolute',
        'model.afan.batch_norm': 'separate'}),
    'MoEx': dict(stock=True, options=dict(custom_hooks=[exchange])),
    'mixup': dict(stock=True, options=augment('Mixup')),
    'CutMix': dict(stock=True, options=augment('CutMix')),
    'A-FAN + MoEx': dict(options=dict(custom_hooks=[dict(type='mmafan.AdvFeatureHook'), exchange])),
    'A-FAN + mixup': dict(options=augment('Mixup')),
    'A-FAN + CutMix': dict(options=augment('CutMix')),
}
del augment, exchange, quarters, tap
