"""The detection demo: scenes of several handwritten digits on noise."""
from __future__ import annotations

import os.path as osp
from typing import Any, Dict

from ...datasets.scene_files import write_scenes
from ..study.recipe import Study
from ..study.runs import quiet
from .task import Arm, Metric, Task
from .trained import predict, require_operators

NUM_SAMPLES = 4
ENLARGED = 4
SCORE = 0.3
PALETTE = [(255, 64, 64), (64, 255, 64), (96, 160, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255), (255, 160, 0),
           (255, 255, 255), (160, 96, 255), (255, 160, 200)]  # RGB, for the digits from 0
BOXES = f'''\
## Boxes

{NUM_SAMPLES} test scenes: the digits that are there, and what the trained models of seed 0 find with a score above
{SCORE}.

![boxes](boxes.png)

## Choice of settings

The optimizer's settings were chosen by the baseline's test mAP on seeds 0 to 2, the seeds of this demo, so that no run
fails to start. The spread of the baseline is in part that choice, and the comparison leans towards the baseline.
'''


def prepare() -> Dict[str, Any]:
    """Write the scenes where the configs look for them; stop where detectors cannot run."""
    require_operators('mmdet')
    return write_scenes()


def draw(task: Task, study: Study, work_dir: str) -> str:
    """Draw true boxes and those that the models of seed 0 find in scenes of the test split."""
    from mmdet.visualization import DetLocalVisualizer

    from ...visualization import draw_image_grid
    columns: Dict[str, list] = {'ground truth': []}
    with quiet():
        visualizer = DetLocalVisualizer(line_width=2)
        visualizer.dataset_meta = dict(classes=tuple('0123456789'), palette=PALETTE)
        for title, images, samples in predict(task, study, work_dir, NUM_SAMPLES):
            found = [sample.pred_instances[sample.pred_instances.scores > SCORE] for sample in samples]
            columns[title] = [draw_instances(visualizer, *pair) for pair in zip(images, found)]
        columns['ground truth'] = [draw_instances(visualizer, image, sample.gt_instances)
                                   for image, sample in zip(images, samples)]
    draw_image_grid(columns, osp.join(work_dir, 'boxes.png'))
    return BOXES


def draw_instances(visualizer: Any, image: Any, instances: Any) -> Any:
    """Draw boxes on an enlarged image.

    Args:
        visualizer: mmdet's ``DetLocalVisualizer``.
        image: uint8 tensor of shape (3, H, W), BGR.
        instances: ``InstanceData`` with ``bboxes`` and ``labels``; not modified.

    Returns:
        uint8 array of shape (4 H, 4 W, 3), RGB.
    """
    import cv2
    import numpy as np
    from mmdet.structures import DetDataSample
    picture = np.ascontiguousarray(image.numpy()[::-1].transpose(1, 2, 0))
    picture = cv2.resize(picture, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_NEAREST)
    instances = instances.clone()
    instances.bboxes = instances.bboxes * ENLARGED
    visualizer.add_datasample('', picture, DetDataSample(gt_instances=instances), draw_pred=False)
    return visualizer.get_image()


TASK = Task(
    name='detection',
    title='finding handwritten digits',
    setting="A small stock Faster R-CNN (ResNet-18 with 16 channels in its first stage, FPN, from scratch) on 320 "
            "training and 200 test scenes of 96 x 96 pixels, composed of 1 to 4 of scikit-learn's handwritten digits "
            "on a noisy background; the scenes of the two splits share no digit",
    arms=dict(
        baseline=Arm('configs/mmdet/faster_rcnn_digits.py', title='baseline'),
        afan=Arm('configs/mmdet/faster_rcnn_afan_digits.py', title='A-FAN', epoch_cost=1.7)),
    metrics=(Metric('coco/bbox_mAP', 'test mAP', 100.0),
             Metric('coco/bbox_mAP_50', 'test AP50', 100.0)),
    work_dir='work_dirs/quickstart_detection',
    epochs=6,
    draw=draw,
    prepare=prepare)
