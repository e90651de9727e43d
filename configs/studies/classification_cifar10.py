# Does A-FAN help a thin ResNet on 500 images of CIFAR-10, against all controls and what a user would pick instead?
# classification_tune_cifar10_long.py, which has the same schedule, saw none of the images that train here, nor of those
# that validate.
_base_ = './classification_tune_cifar10_long.py'
seeds = 5
options = {
    'train_dataloader.dataset.indices': list(range(1, 10000, 20)),  # 50 of each class, every other one of tenth 1
    'val_dataloader.dataset.datasets': [
        dict(
            type='CustomDataset',
            data_root='data/cifar10_jpg',
            data_prefix=prefix,
            indices=indices,
            pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')])
        for prefix, indices in (('test', None), ('train', [i for i in range(10000) if i % 10 > 6]))
    ],
}
tap = 'model.afan.taps.backbone'
halves = {'model.afan.clean_weight': 0.5}

arms = {
    '_delete_': True,
    'baseline': dict(stock=True),
    # A-FAN computes as much as 155 epochs of the baseline.
    'equal compute': dict(stock=True, control=True, options={
        'train_cfg.max_epochs': 156, 'train_cfg.val_interval': 156}),
    'twice the schedule': dict(_base_.arms['twice the schedule'], control=False),
    'equal loss scale': _base_.arms['equal loss scale'],
    # Weights of 1 and 1/2, whose sum is that of "equal loss scale".
    'zero step': _base_.arms['zero step, 1 + 0.5'],
    'noise': dict(control=True, options={f'{tap}.direction': 'random_sign'}),
    'A-FAN': dict(),
    'A-FAN 0.1': _base_.arms['layer2 0.1, 1 + 0.5'],
    # Weights of 1/2 and 1/2, which halve the gradient of the stages before the tap; of the peers too.
    'zero step, 0.5 + 0.5': dict(control=True, options={**halves, f'{tap}.step_size': 0.0}),
    'noise, 0.5 + 0.5': dict(control=True, options={**halves, f'{tap}.direction': 'random_sign'}),
    'A-FAN, 0.5 + 0.5': dict(options=halves),
    # The authors' size, tap and norms, with one step.
    'published': dict(options={
        **halves, f'{tap}.module': 'backbone.layer1', f'{tap}.step_size': 0.5 / 255, f'{tap}.step_unit': 'absolute',
        f'{tap}.strengths': (1.0, ), f'{tap}.reinject': False, 'model.afan.batch_norm': 'shared'}),
    # AdvProp's idea: images, attacked within 1/255 of the range, and norms of their own for them.
    'input': dict(options={
        **halves, f'{tap}.module': 'inputs', f'{tap}.step_size': 1 / 51.2, f'{tap}.step_unit': 'absolute',
        f'{tap}.strengths': (1.0, ), f'{tap}.reinject': False, 'model.afan.batch_norm': 'separate'}),
    'MoEx': dict(stock=True, options=dict(custom_hooks=[dict(type='mmafan.MomentExchangeHook')])),
    'CutMix': dict(stock=True, options={'model.train_cfg': dict(augments=dict(type='CutMix', alpha=1.0))}),
}
del tap, halves
