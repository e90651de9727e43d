"""The segmentation demo: scenes of several handwritten digits on noise."""
from __future__ import annotations

import os.path as osp
from typing import Any, Dict

from ...datasets.scene_files import write_scenes
from ..study.recipe import Study
from ..study.runs import quiet
from .detection import ENLARGED, NUM_SAMPLES, PALETTE
from .task import Arm, Metric, Task
from .trained import predict, require_operators

SCENES: Dict[str, Any] = dict(
    folder='data/large_digit_scenes', num_train=480, num_test=200, size=64, max_digits=2, sides=(24, 44))
OPACITY = 0.6
MAPS = f'''\
## Label maps

{NUM_SAMPLES} test scenes: the image, the true classes of its pixels, and what the trained models of seed 0 predict.
Each digit has its colour; the background has none.

![label maps](label_maps.png)

## Choice of settings

The scenes, the model, the class weight of the background and the optimizer's settings were chosen by how the baseline
trains with seed 10, which is none of this demo's seeds, and the length by the time a demo may take. A-FAN's settings
are those of `configs/_base_/afan_segmentation.py`, not tuned, so the comparison leans towards the baseline. Runs this
short end while the models still learn fast, so that a score tells above all how early a run began to tell the digits
apart: an example of how the method is used and what it costs, no evidence of what it gives.
'''


def prepare() -> Dict[str, Any]:
    """Write the scenes where the configs look for them; stop where segmentors cannot run."""
    require_operators('mmseg')  # it imports mmcv's operators for every model, also where it uses none
    return write_scenes(**SCENES)


def draw(task: Task, study: Study, work_dir: str) -> str:
    """Draw true classes and those that the models of seed 0 predict in scenes of the test split."""
    from ...visualization import draw_image_grid
    columns: Dict[str, list] = {'image': [], 'ground truth': []}
    with quiet():
        for title, images, samples in predict(task, study, work_dir, NUM_SAMPLES):
            columns[title] = [overlay(image, sample.pred_sem_seg.data[0]) for image, sample in zip(images, samples)]
        for image, sample in zip(images, samples):
            truth = sample.gt_sem_seg.data[0]
            columns['image'].append(overlay(image, truth * 0))
            columns['ground truth'].append(overlay(image, truth))
    figure = draw_image_grid(columns)
    add_legend(figure)
    figure.savefig(osp.join(work_dir, 'label_maps.png'), bbox_inches='tight')
    return MAPS


def overlay(image: Any, classes: Any) -> Any:
    """Lay the colours of classes over an enlarged image.

    Args:
        image: uint8 tensor of shape (3, H, W), BGR.
        classes: Integer tensor of shape (H, W): 0 for the background, which stays as it is, 1 + d for the digit d.

    Returns:
        uint8 array of shape (4 H, 4 W, 3), RGB.
    """
    import numpy as np
    picture = image.numpy()[::-1].transpose(1, 2, 0).astype(float)
    labels = classes.numpy()
    colours = np.array([(0, 0, 0), *PALETTE])[labels]
    picture = np.where(labels[:, :, None] > 0, (1 - OPACITY) * picture + OPACITY * colours, picture)
    return picture.round().astype(np.uint8).repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)


def add_legend(figure: Any) -> None:
    """Name the colours of the digits below a figure."""
    from matplotlib.patches import Patch
    patches = [Patch(facecolor=[value / 255 for value in colour], edgecolor='black', label=str(digit))
               for digit, colour in enumerate(PALETTE)]
    figure.legend(handles=patches, loc='upper center', bbox_to_anchor=(0.5, 0.0), ncol=len(patches))


TASK = Task(
    name='segmentation',
    title='segmenting handwritten digits',
    setting="A small stock DeepLabV3+ (ResNet-18 without its last stage and with 16 channels in its first, from "
            "scratch) on 480 training and 200 test scenes of 64 x 64 pixels, composed of 1 or 2 of scikit-learn's "
            "handwritten digits on a noisy background; the scenes of the two splits share no digit",
    arms=dict(
        baseline=Arm('configs/mmseg/deeplabv3plus_digits.py', title='baseline'),
        afan=Arm('configs/mmseg/deeplabv3plus_afan_digits.py', title='A-FAN', epoch_cost=2.0)),
    metrics=(Metric('mIoU', 'test mIoU'), Metric('mAcc', 'test mAcc')),
    work_dir='work_dirs/quickstart_segmentation',
    epochs=12,
    seeds=2,  # a third would take it near ten minutes where other work is on the machine
    draw=draw,
    prepare=prepare)
