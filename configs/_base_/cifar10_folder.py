# CIFAR-10 as a folder of images, <data_root>/{train,test}/<class>/*, in place of the binary files:
# data sets for a config to put into its data loaders (see resnet18_afan_cifar10-folder.py).
folder_train_dataset = dict(
    _delete_=True,
    type='CustomDataset',
    data_root='data/cifar10_jpg',
    data_prefix='train',
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='RandomCrop', crop_size=32, padding=4),
        dict(type='RandomFlip', prob=0.5, direction='horizontal'),
        dict(type='PackInputs'),
    ])
folder_test_dataset = dict(
    _delete_=True,
    type='CustomDataset',
    data_root='data/cifar10_jpg',
    data_prefix='test',
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='PackInputs'),
    ])
