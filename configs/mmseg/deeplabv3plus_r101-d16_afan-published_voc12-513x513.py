_base_ = './deeplabv3plus_r50-d16_afan-published_voc12-513x513.py'

model = dict(pretrained='torchvision://resnet101', backbone=dict(depth=101))
