# The authors' network, optimizer and schedule, as far as fields of mmseg's DeepLabV3+ go; see
# configs/mmseg/README.md for what stays different.
_base_ = [
    'mmseg::_base_/models/deeplabv3plus_r50-d8.py', 'mmseg::_base_/default_runtime.py',
    'mmseg::_base_/schedules/schedule_20k.py'
]

# Four images on one GPU: no synchronisation of batch norms.
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    pretrained='torchvision://resnet50',
    backbone=dict(
        type='ResNet',
        strides=(1, 2, 2, 1),
        dilations=(1, 1, 1, 2),
        norm_cfg=dict(type='BN', momentum=0.01, requires_grad=True)),
    decode_head=dict(
        channels=256,
        dilations=(1, 6, 12, 18),
        norm_cfg=norm_cfg,
        loss_decode=dict(avg_non_ignore=True)),  # the mean over labelled pixels, as PyTorch's own
    auxiliary_head=None)

optimizer = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4)
optim_wrapper = dict(
    optimizer=optimizer, paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.1)}))

max_iters = 30000
param_scheduler = [
    dict(type='PolyLR', eta_min=1e-6, power=0.9, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(max_iters=max_iters, val_interval=3000)
default_hooks = dict(checkpoint=dict(interval=3000))
