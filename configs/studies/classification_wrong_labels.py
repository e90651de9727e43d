# Does the recipe for wrong labels help a thin ResNet on 600 images of CIFAR-10 of which 40 % have redrawn labels,
# against every control? What was chosen was chosen on other images and seeds (classification_tune_small_regimes.py).
_base_ = './classification_small_cifar10.py'
also = ('training accuracy/top1', 'calibration/ece')
measures = dict(_delete_=True, training=dict(data='train'))
options = {'train_dataloader.dataset': dict(
    _delete_=True, type='mmafan.RedrawnLabels', share=0.4, num_classes=10,
    dataset=dict(
        type='CustomDataset', data_root='data/cifar10_jpg', data_prefix='train',
        indices=[1000 * c + i for c in range(10) for i in range(300, 360)],
        pipeline=[dict(type='LoadImageFromFile'), dict(type='RandomFlip', prob=0.5, direction='horizontal'),
                  dict(type='PackInputs')]))}
afan = 'model.afan.taps.backbone'
always = {'custom_hooks': [dict(type='mmafan.AdvFeatureHook')]}
wrong = dict(_base_.arms)
for name, step in (('zero step', 0.0), ('noise', 0.1), ('noise, tuned size', 0.3), ('A-FAN', 0.1)):
    wrong[name] = dict(wrong[name], options={**wrong[name].get('options', {}), **always, f'{afan}.step_size': step})
peers = ('label smoothing', 'mixup', 'CutMix')
arms = {'_delete_': True, **{name: arm for name, arm in wrong.items() if name not in peers}}
del afan, always, name, peers, step, wrong
