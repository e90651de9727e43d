# Does A-FAN help a small DeepLabV3+ on nuclei, against all controls? Every other image of the training folder trains,
# the rest validates. Its step size comes from segmentation_step_size.py, which trained on all of that folder and
# validated on other images.
config = '../mmseg/deeplabv3plus_r18-d8_afan_nuclei-96x96.py'
metric = 'mIoU'
seeds = 3
images = 201
options = {
    'train_dataloader.batch_size': 4,
    'train_dataloader.dataset.indices': list(range(0, images, 2)),
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.dataset.data_prefix': dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
    'val_dataloader.dataset.indices': list(range(1, images, 2)),
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'train_cfg.val_interval': 400,
}
taps = 'model.afan.taps'


def both(**fields):
    return {f'model.afan.taps.{tap}.{k}': v for tap in ('backbone', 'aspp') for k, v in fields.items()}


arms = {
    'baseline': dict(stock=True),
    # A step of the default recipe costs two of the baseline's, one of the published recipe more.
    'equal compute': dict(
        stock=True, control=True,
        options={
            'train_cfg.max_iters': 800,
            'train_cfg.val_interval': 800,
            'param_scheduler': [
                dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
                dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=50, end=800),
            ]
        }),
    'zero step': dict(control=True, options=both(step_size=0.0)),
    'noise': dict(control=True, options=both(direction='random_sign')),
    'A-FAN': dict(),
    # The authors' sizes and weights at the same taps.
    'published': dict(options={
        **both(step_unit='absolute'),
        f'{taps}.backbone.step_size': 0.01 / 255,
        f'{taps}.backbone.strength_sampling': 'all',
        f'{taps}.backbone.reinject': (True, True),
        f'{taps}.backbone.weight': 0.1,
        f'{taps}.aspp.step_size': 0.4 / 255,
        'model.afan.clean_weight': 0.7,
        'model.afan.batch_norm': 'shared',
    }),
    'input': dict(options={
        f'{taps}.backbone.module': 'inputs',
        f'{taps}.backbone.reinject': False,
        f'{taps}.aspp': None,
        f'{taps}.backbone.weight': 0.5,
        'model.afan.batch_norm': 'separate',
    }),
}
del both, images, taps
