# The question of segmentation_step_size.py on street scenes of eleven classes, with fewer arms.
config = '../mmseg/deeplabv3plus_r18-d8_afan_camvid-112x112.py'
metric = 'mIoU'
seeds = 1
options = {
    'train_dataloader.num_workers': 0,
    'val_dataloader.num_workers': 0,
}
arms = {
    'baseline': dict(stock=True),
    **{
        str(step): dict(options={
            'model.afan.taps.backbone.step_size': step,
            'model.afan.taps.aspp.step_size': step
        })
        for step in (0.03, 0.1, 0.3)
    },
}
