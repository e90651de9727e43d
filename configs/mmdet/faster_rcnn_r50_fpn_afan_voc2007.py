# Trained on VOC2007 trainval alone; the stock config is for VOC2007 and VOC2012.
_base_ = './faster_rcnn_r50_fpn_afan_voc0712.py'

train_dataloader = dict(
    dataset=dict(dataset=dict(datasets=_base_.train_dataloader.dataset.dataset.datasets[:1])))
