# The question of detection_bccd.py on the boxes of nuclei, some thirty of one class in an image.
_base_ = './detection_bccd.py'
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
data = {
    'data_root': 'data/nuclei/',
    'metainfo': dict(classes=('nucleus', )),
}
options = {
    '_delete_': True,
    **{f'{part}_dataloader.dataset.{k}': v for part in ('train', 'val') for k, v in data.items()},
    'train_dataloader.dataset.data_prefix': dict(img='img_dir/train/'),
    'train_dataloader.dataset.pipeline': [
        *load,
        dict(type='RandomCrop', crop_size=(128, 128)),
        dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
        dict(type='PackDetInputs'),
    ],
    'val_dataloader.dataset.data_prefix': dict(img='img_dir/val/'),
    'val_dataloader.dataset.pipeline': [
        *load,
        dict(type='Resize', scale_factor=1.0),  # for the field that heads want
        dict(type='PackDetInputs', meta_keys=meta_keys),
    ],
    'val_evaluator.ann_file': 'data/nuclei/annotations_coco/val.json',
    **{f'{part}_dataloader.num_workers': 0 for part in ('train', 'val')},
    **{f'{part}_dataloader.persistent_workers': False for part in ('train', 'val')},
    'model.rpn_head.anchor_generator.scales': [4],
    'model.roi_head.bbox_head.num_classes': 1,
    'train_cfg.val_interval': 8,
    'default_hooks.checkpoint.interval': 4,
    'default_hooks.checkpoint.max_keep_ckpts': 2,
}
tap = 'model.afan.taps.backbone'
tiny = {f'model.afan.taps.{name}.{k}': v for name in ('backbone', 'roi')
        for k, v in dict(step_size=0.1 / 255, step_unit='absolute').items()}
arms = {
    # Taps, sizes, strengths and weights of configs/_base_/afan_detection.py, for COCO; its norms are frozen, as those
    # of the stock detectors are, and these train.
    'COCO recipe': dict(options={**tiny, f'{tap}.strength_sampling': 'all', f'{tap}.weight': 0.1}),
    # The same of afan_detection_economy.py: an adversarial pass of one image in every other step.
    'COCO economy': dict(options={
        **tiny, f'{tap}.fraction': 0.125, f'{tap}.weight': 0.1, 'model.afan.clean_weight': 0.8}),
}
del data, load, meta_keys, tap, tiny
