# Does the recipe for small data sets help a small Faster R-CNN on 40 images of nuclei, whole and without flips, on a
# schedule of which twice as much adds nothing, against the controls?
config = '../mmdet/faster_rcnn_r18_fpn_afan-small-data_nuclei.py'
metric = 'coco/bbox_mAP_50'
also = ('coco/bbox_mAP', )
seeds = 2
afan = 'model.afan.taps.backbone'
arms = {
    'baseline': dict(stock=True),
    'equal compute': dict(
        stock=True, control=True, options={'train_cfg.max_epochs': 160, 'train_cfg.val_interval': 160}),
    'zero step': dict(control=True, options={f'{afan}.step_size': 0.0}),
    'noise': dict(control=True, options={f'{afan}.direction': 'random_sign'}),
    'A-FAN': dict(),
}
del afan
