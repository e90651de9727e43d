# The embedded demo: 8 x 8 handwritten digits from scikit-learn, few of them for training.
_base_ = './runtime.py'

custom_imports = dict(imports=['mmafan'], allow_failed_imports=False)

data_preprocessor = dict(num_classes=10, mean=[78.0] * 3, std=[96.0] * 3, to_rgb=False)

train_pipeline = [
    dict(type='RandomCrop', crop_size=16, padding=2),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='PackInputs')]

train_dataloader = dict(
    batch_size=25,
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='mmafan.DigitsDataset',
        split='train',
        image_size=16,
        num_train_samples=200,
        pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(
    batch_size=300,
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='mmafan.DigitsDataset', split='test', image_size=16, pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, ))
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=30, val_interval=5)

default_scope = 'mmpretrain'
default_hooks = dict(logger=dict(interval=8), checkpoint=dict(interval=5))
visualizer = dict(type='UniversalVisualizer', vis_backends=_base_.vis_backends)
