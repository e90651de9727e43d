# The embedded demo: 8 x 8 handwritten digits from scikit-learn, few of them for training.
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
val_cfg = dict()
test_cfg = dict()

default_scope = 'mmpretrain'
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=8),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # Two are kept: mmengine removes the oldest before it writes the next.
    checkpoint=dict(type='CheckpointHook', interval=5, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'))
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends)
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=None, deterministic=False)
