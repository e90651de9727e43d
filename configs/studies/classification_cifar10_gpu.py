# ResNet-18 of full width on all 10,000 images of the training folder in bfloat16, for one GPU, which all runs share.
# tools/gpu_check.sh chooses the number of epochs, so that the study fits into the time that is left.
config = '../mmpretrain/resnet18_afan_cifar10-folder.py'
metric = 'accuracy/top1'
seeds = 3
epochs = int('{{$MMAFAN_STUDY_EPOCHS:30}}')  # of the baseline; the environment variable overrides it
options = {
    'train_dataloader.batch_size': 128,
    'train_dataloader.num_workers': 2,
    'val_dataloader.batch_size': 500,
    'val_dataloader.num_workers': 2,
    'optim_wrapper.type': 'AmpOptimWrapper',
    'optim_wrapper.dtype': 'bfloat16',
    'optim_wrapper.loss_scale': 1.0,
    'optim_wrapper.optimizer': dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4, _delete_=True),
    'param_scheduler': [
        dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', by_epoch=True, begin=1, convert_to_iter_based=True),
    ],
    'train_cfg.max_epochs': epochs,
    'train_cfg.val_interval': epochs,
    'default_hooks.checkpoint': dict(type='CheckpointHook', interval=10, max_keep_ckpts=2, _delete_=True),
    'default_hooks.logger.interval': 20,
    'env_cfg.cudnn_benchmark': True,
}
arms = {
    'baseline': dict(stock=True),
    # A-FAN computes as much as 1.47 times the epochs of the baseline.
    'equal compute': dict(stock=True, control=True, options={
        'train_cfg.max_epochs': epochs * 3 // 2, 'train_cfg.val_interval': epochs * 3 // 2}),
    'noise': dict(control=True, options={'model.afan.taps.backbone.direction': 'random_sign'}),
    'A-FAN': dict(),
}
del epochs
