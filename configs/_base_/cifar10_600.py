# 600 images of CIFAR-10 (60 of each class) as a folder of images, without crops: few enough to be learned by heart.
# Images 300 to 359 of each class train and the test images validate; studies that choose something train on images 0 to
# 59 of each class and validate on images 800 to 999 of the training folder.
data_preprocessor = dict(num_classes=10, mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255], to_rgb=True)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]

train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='CustomDataset',
        data_root='data/cifar10_jpg',
        data_prefix='train',
        indices=[1000 * c + i for c in range(10) for i in range(300, 360)],
        pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='CustomDataset', data_root='data/cifar10_jpg', data_prefix='test', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_evaluator = [dict(type='Accuracy', topk=(1, )), dict(type='CalibrationError')]
test_evaluator = val_evaluator
