# Baseline of the demo: a thin stock ResNet on 100 handwritten digits without crops, few enough to be learned by heart.
# What was chosen was chosen on digits 0 to 99 of the train split, with other seeds than those of the demo.
_base_ = './resnet_digits.py'

model = dict(
    backbone=dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2, )), head=dict(in_channels=64))

train_dataloader = dict(
    dataset=dict(num_train_samples=None, indices=list(range(100, 200)), pipeline=_base_.test_pipeline))

optim_wrapper = dict(optimizer=dict(lr=0.05))
train_cfg = dict(max_epochs=60, val_interval=10)
