# Does the recipe for wrong labels help a ResNet-18 on 600 images of CIFAR-10 of which 40 % have redrawn labels, against
# every control and what a user would pick instead?
_base_ = './classification_small_resnet18.py'
options = {'train_dataloader.dataset': dict(
    _delete_=True, type='mmafan.RedrawnLabels', share=0.4, num_classes=10,
    dataset=dict(
        type='CustomDataset', data_root='data/cifar10_jpg', data_prefix='train',
        indices=[1000 * c + i for c in range(10) for i in range(300, 360)],
        pipeline=[dict(type='LoadImageFromFile'), dict(type='RandomFlip', prob=0.5, direction='horizontal'),
                  dict(type='PackInputs')]))}
afan = 'model.afan.taps.backbone'
always = {'custom_hooks': [dict(type='mmafan.AdvFeatureHook')]}
arms = {
    'zero step': dict(options=always),
    'noise': dict(options={f'{afan}.step_size': 0.1, **always}),
    'noise, tuned size': dict(options={f'{afan}.step_size': 0.2, **always}),
    'A-FAN': dict(options={f'{afan}.step_size': 0.1, **always}),
}
del afan, always
