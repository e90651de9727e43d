# The question of segmentation_nuclei_controls.py on street scenes of eleven classes: 80 train, the 20 for testing,
# which chose nothing, validate.
_base_ = './segmentation_nuclei_controls.py'
seeds = 3
config = '../mmseg/deeplabv3plus_r18-d8_afan_camvid-112x112.py'
options = {
    '_delete_': True,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.dataset.data_prefix': dict(img_path='img_dir/test', seg_map_path='ann_dir/test'),
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'train_cfg.max_iters': 400,
    'train_cfg.val_interval': 400,
    'param_scheduler': [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
        dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=50, end=400),
    ],
}
arms = {
    '_delete_': True,
    **{name: _base_.arms[name] for name in ('baseline', 'equal compute', 'zero step', 'noise', 'A-FAN', 'A-FAN 0.3')},
}
