# Does the recipe for small data sets help a small DeepLabV3+ on 40 images of nuclei, whole and without flips, on a
# schedule of which twice as much adds nothing, against the controls?
config = '../mmseg/deeplabv3plus_r18-d8_afan-small-data_nuclei-128x128.py'
metric = 'mIoU'
also = ('training mIoU', )
measures = dict(training=dict(data='train'))
seeds = 3
size = dict(type='Resize', scale=(128, 128), keep_ratio=False)
load = [dict(type='LoadImageFromFile'), size]
options = {
    'val_dataloader.dataset.pipeline': [*load, dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
    'default_hooks.checkpoint.interval': 10000,
}
afan = 'model.afan.taps.backbone'
arms = {
    'baseline': dict(stock=True),
    'equal compute': dict(
        stock=True, control=True,
        options={
            'train_cfg.max_iters': 2000,
            'train_cfg.val_interval': 2000,
            'param_scheduler': [
                dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
                dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=50, end=2000),
            ]
        }),
    'zero step': dict(control=True, options={f'{afan}.step_size': 0.0}),
    'noise': dict(control=True, options={f'{afan}.direction': 'random_sign'}),
    'A-FAN': dict(),
}
del afan, load, size
