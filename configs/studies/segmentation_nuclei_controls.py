# Does A-FAN help a small DeepLabV3+ on nuclei, with batches of 8 and five seeds? Two thirds of the training folder
# train, one third validates; segmentation_step_size.py, which suggested 0.3, validated on other images and seeds.
config = '../mmseg/deeplabv3plus_r18-d8_afan_nuclei-96x96.py'
metric = 'mIoU'
seeds = [10, 11, 12, 13, 14]
images = 201
options = {
    'train_dataloader.dataset.indices': [i for i in range(images) if i % 3],
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.dataset.data_prefix': dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
    'val_dataloader.dataset.indices': list(range(0, images, 3)),
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'train_cfg.val_interval': 400,
}


def both(**fields):
    return {f'model.afan.taps.{tap}.{k}': v for tap in ('backbone', 'aspp') for k, v in fields.items()}


arms = {
    'baseline': dict(stock=True),
    # A step of A-FAN costs two of the baseline's.
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
    'noise 0.3': dict(control=True, options=both(step_size=0.3, direction='random_sign')),
    'A-FAN 0.03': dict(),
    'A-FAN 0.3': dict(options=both(step_size=0.3)),
}
cost_repeats = 3
del both, images
