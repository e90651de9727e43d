# Do the recipes that a thin ResNet chose hold for a ResNet-18 on 600 images of CIFAR-10, with right labels and with
# 40 % of them redrawn? On the images and the seed that report nothing.
config = '../mmpretrain/resnet18_afan-small-data_cifar10-600.py'
metric = 'accuracy/top1'
also = ('training accuracy/top1', )
measures = dict(training=dict(data='train'))
seeds = [200]
folder = dict(
    type='CustomDataset', data_root='data/cifar10_jpg', data_prefix='train',
    indices=[1000 * c + i for c in range(10) for i in range(60)],
    pipeline=[dict(type='LoadImageFromFile'), dict(type='RandomFlip', prob=0.5, direction='horizontal'),
              dict(type='PackInputs')])
data_sets = {
    'right': dict(options={'train_dataloader.dataset': dict(_delete_=True, **folder)}),
    'wrong': dict(options={'train_dataloader.dataset': dict(
        _delete_=True, type='mmafan.RedrawnLabels', dataset=folder, share=0.4, num_classes=10)}),
}
options = {
    'val_dataloader.dataset.data_prefix': 'train',
    'val_dataloader.dataset.indices': [1000 * c + i for c in range(10) for i in range(800, 1000)],
    'default_hooks.checkpoint.interval': 1000,
}
afan = 'model.afan.taps.backbone'
always = {'custom_hooks': [dict(type='mmafan.AdvFeatureHook')]}
arms = {
    'baseline': dict(stock=True),
    'fit 0.3, 0.1': dict(options={f'{afan}.step_size': 0.1}),
    'fit 0.3, 0.2': dict(),
    'fit 0.3, 0.4': dict(options={f'{afan}.step_size': 0.4}),
    'always 0.1': dict(options={f'{afan}.step_size': 0.1, **always}),
    'always 0.2': dict(options=always),
    'noise 0.2': dict(options={f'{afan}.direction': 'random_sign'}),
    'shorter schedule': dict(stock=True, options={'train_cfg.max_epochs': 15, 'train_cfg.val_interval': 15}),
}
del afan, always, folder
