"""Random batches as the data loaders of other codebases give them: two samples each, and targets of their kinds."""
from __future__ import annotations

import numpy as np
import torch
from mmengine.structures import InstanceData, LabelData

SIDE = 64
BOXES = ((4.0, 5.0, 40.0, 50.0), (20.0, 8.0, 60.0, 44.0), (10.0, 30.0, 34.0, 62.0))


def images(*shape, count=2):
    """Return ``count`` images of random bytes, (3, 64, 64) if no shape is named."""
    return [torch.randint(256, shape or (3, SIDE, SIDE), dtype=torch.uint8) for _ in range(count)]


def yolo_tables(side=SIDE):
    """Images and one table of all boxes, as ``yolov5_collate`` of mmyolo makes them: image, class, corners."""
    table = torch.tensor([[n % 2, n, *box] for n, box in enumerate(BOXES)])
    return dict(inputs=torch.stack(images(3, side, side)), data_samples=dict(bboxes_labels=table))


def ppyoloe_tables():
    """The same, the images in a list."""
    return dict(yolo_tables(), inputs=images())


def boxes():
    """Images and data samples of mmdet, which mmyolo takes as well."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    samples = []
    for number in range(2):
        found = InstanceData(bboxes=HorizontalBoxes(torch.tensor(BOXES[number:])),
                             labels=torch.arange(len(BOXES) - number))
        samples.append(DetDataSample(gt_instances=found, metainfo=dict(
            img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE), pad_shape=(SIDE, SIDE), scale_factor=(1.0, 1.0))))
        samples[-1].ignored_instances = InstanceData(bboxes=HorizontalBoxes(torch.zeros(0, 4)),
                                                     labels=torch.zeros(0).long())
    return dict(inputs=images(), data_samples=samples)


def text_regions():
    """Images with polygons, one of them ignored, for detectors of mmocr."""
    from mmocr.structures import TextDetDataSample
    samples = []
    for number in range(2):
        corners = np.float32(BOXES[number:])
        found = InstanceData(labels=torch.zeros(len(corners)).long(), bboxes=torch.from_numpy(corners),
                             ignored=torch.tensor([n == 2 for n in range(number, 3)]))
        found.polygons = [np.float32([x, y, (x + u) / 2, y, u, y, u, v, (x + u) / 2, v, x, v])
                          for x, y, u, v in corners]
        found.texts = ['mmafan'] * len(corners)
        samples.append(TextDetDataSample(gt_instances=found, metainfo=dict(
            img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE), pad_shape=(SIDE, SIDE), scale_factor=(1.0, 1.0))))
    return dict(inputs=images(), data_samples=samples)


def words(height=32, width=100, channels=3):
    """Images of words, for recognizers of mmocr."""
    from mmocr.structures import TextRecogDataSample
    samples = [TextRecogDataSample(gt_text=LabelData(item=text), metainfo=dict(
        img_shape=(height, width), ori_shape=(height, width), valid_ratio=1.0)) for text in ('feature', 'norm')]
    return dict(inputs=images(channels, height, width), data_samples=samples)


def receipts():
    """Images with texts in boxes and their relations, for models of mmocr that extract them."""
    from mmocr.structures import KIEDataSample
    samples = []
    for number in range(2):
        corners = torch.tensor(BOXES[number:])
        found = InstanceData(bboxes=corners, labels=torch.arange(len(corners)),
                             texts=['total', '12.50', 'tax'][number:], edge_labels=torch.eye(len(corners)).long())
        samples.append(KIEDataSample(gt_instances=found, metainfo=dict(
            img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE), scale_factor=(1.0, 1.0))))
    return dict(inputs=images(), data_samples=samples)


def poses(**fields):
    """Images of persons, with keypoints, heatmaps and labels of coordinates, for estimators of mmpose."""
    from mmpose.testing import get_packed_inputs
    return get_packed_inputs(2, img_shape=(SIDE, SIDE), input_size=(SIDE, SIDE), heatmap_size=(16, 16), **fields)


def videos(*shape):
    """Clips for recognizers of mmaction: (segments, 3, 64, 64) or (clips, 3, frames, 64, 64)."""
    from mmaction.structures import ActionDataSample
    samples = [ActionDataSample().set_gt_label(number) for number in range(2)]
    return dict(inputs=images(*shape), data_samples=samples)


def skeletons():
    """Skeletons (persons, frames, joints, coordinates) for recognizers of mmaction."""
    from mmaction.structures import ActionDataSample
    samples = [ActionDataSample().set_gt_label(number) for number in range(2)]
    return dict(inputs=[torch.randn(1, 2, 8, 25, 3) for _ in range(2)], data_samples=samples)


def point_clouds(classes=3):
    """Point clouds in front of a car, with boxes, for detectors of mmdet3d."""
    from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
    points, samples = [], []
    for _ in range(2):
        points.append(torch.rand(400, 4) * torch.tensor([30.0, 30.0, 2.0, 1.0]) - torch.tensor([0.0, 15.0, 2.0, 0.0]))
        found = InstanceData(labels_3d=torch.arange(3) % classes, bboxes_3d=LiDARInstance3DBoxes(torch.tensor(
            [[8.0, -3.0, -1.7, 3.9, 1.6, 1.5, 0.3], [15.0, 4.0, -1.7, 0.8, 0.7, 1.7, 1.0],
             [20.0, -6.0, -1.7, 1.7, 0.6, 1.7, -0.6]])))
        samples.append(Det3DDataSample(gt_instances_3d=found, metainfo=dict(
            box_type_3d=LiDARInstance3DBoxes, box_mode_3d=0)))
    return dict(inputs=dict(points=points), data_samples=samples)
