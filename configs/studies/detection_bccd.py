# Does A-FAN help a small Faster R-CNN on blood cells, at a quarter of their size, against all controls?
config = '../mmdet/faster_rcnn_r18_fpn_afan_bccd.py'
metric = 'coco/bbox_mAP_50'
seeds = 3
size = (160, 120)
options = {
    'train_pipeline.2.scale': size,
    'train_dataloader.dataset.pipeline.2.scale': size,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.dataset.pipeline.1.scale': size,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'model.rpn_head.anchor_generator.scales': [3],
    'train_cfg.val_interval': 8,
    'default_hooks.checkpoint.interval': 4,
    'default_hooks.checkpoint.max_keep_ckpts': 2,
}


def both(**fields):
    return {f'model.afan.taps.{tap}.{k}': v for tap in ('backbone', 'roi') for k, v in fields.items()}


arms = {
    'baseline': dict(stock=True),
    # A-FAN computes as much as 13.8 epochs of the baseline, on the nuclei 13.9.
    'equal compute': dict(stock=True, control=True, options={'train_cfg.max_epochs': 14, 'train_cfg.val_interval': 14}),
    'twice the schedule': dict(stock=True, options={'train_cfg.max_epochs': 16, 'train_cfg.val_interval': 16}),
    'zero step': dict(control=True, options=both(step_size=0.0)),
    'noise': dict(control=True, options=both(direction='random_sign')),
    'A-FAN': dict(),
}
del both, size
