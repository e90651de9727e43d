# The baseline of the authors' CIFAR-10 experiments: their optimizer and schedule, without A-FAN.
_base_ = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'

custom_imports = dict(imports=['mmafan'], allow_failed_imports=False)

model = dict(
    backbone=dict(_delete_=True, type='mmafan.CIFARResNet', depth=56),
    head=dict(in_channels=64))

train_dataloader = dict(batch_size=128, drop_last=True)
val_dataloader = dict(batch_size=128)
test_dataloader = dict(batch_size=128)

optim_wrapper = dict(optimizer=dict(weight_decay=5e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type='MultiStepLR', by_epoch=True, milestones=[50, 150], gamma=0.1),
]
