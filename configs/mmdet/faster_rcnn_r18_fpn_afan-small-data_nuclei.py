# A small detector on few images, whole and without flips, with the recipe for small data sets.
_base_ = './faster_rcnn_r18_fpn_afan_bccd.py'

custom_hooks = [dict(type='mmafan.AdvFeatureHook', fit_threshold=0.3)]
model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[4])),
    roi_head=dict(bbox_head=dict(num_classes=1)),
    afan=dict(
        _delete_=True,
        taps=dict(backbone=dict(module='backbone.relu', step_size=0.2, step_unit='std', weight=1.0)),
        clean_weight=1.0,
        batch_norm='batch'))

load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
size = dict(type='Resize', scale=(128, 128), keep_ratio=False)
data = dict(data_root='data/nuclei/', metainfo=dict(classes=('nucleus', )))
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        **data, data_prefix=dict(img='img_dir/train/'), indices=list(range(1, 201, 5)),
        pipeline=[*load, size, dict(type='PackDetInputs')]))
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        **data, data_prefix=dict(img='img_dir/val/'),
        pipeline=[
            load[0], size, load[1],
            dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
        ]))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/nuclei/annotations_coco/val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=80, val_interval=80)
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=40))
