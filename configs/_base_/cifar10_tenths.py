# CIFAR-10 as a folder of images, in tenths: every tenth image of the training folder, which is in order of class, so
# that each tenth has as many of every class. What is tuned and what is reported share no image: tenth 0 trains and
# tenths 5 and 6 validate while settings are chosen; here tenth 1 trains, and tenths 7 to 9 and the test images
# validate.
data_preprocessor = dict(num_classes=10, mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255], to_rgb=True)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]

tenths = [list(range(start, 10000, 10)) for start in range(10)]
folder = dict(type='CustomDataset', data_root='data/cifar10_jpg')

train_dataloader = dict(
    batch_size=50,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    dataset=dict(**folder, data_prefix='train', indices=tenths[1], pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='ConcatDataset',
        datasets=[
            dict(**folder, data_prefix='test', pipeline=test_pipeline),
            dict(**folder, data_prefix='train', indices=tenths[7] + tenths[8] + tenths[9], pipeline=test_pipeline),
        ]),
    sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, ))
test_evaluator = val_evaluator
