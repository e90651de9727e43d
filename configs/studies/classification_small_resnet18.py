# The arms of classification_small_cifar10.py with a ResNet-18.
_base_ = './classification_small_cifar10.py'
seeds = 4
config = '../mmpretrain/resnet18_afan-small-data_cifar10-600.py'
also = ('training accuracy/top1', 'calibration/ece')
measures = dict(_delete_=True, training=dict(data='train'))
