"""The classification demo: handwritten digits, one in an image."""
from __future__ import annotations

import os.path as osp

from _runs import quiet
from quickstart_runs import load_trained
from quickstart_task import Metric, Task

FEATURES = '''\
## Features

Four test images: the clean feature at the tap of the trained A-FAN model of seed 0, the feature perturbed by every
strength, and the clean feature with the statistics of the perturbed one re-injected. For each image the channel that
moves most, and beside it the difference from the clean feature.

![features](features.png)
'''


def draw(task: Task, work_dir: str, epochs: int) -> str:
    """Draw the features of the trained A-FAN model of seed 0 on images of the test split."""
    import torch

    from mmafan.visualization import attack_features, draw_features
    with quiet():
        model, batch = load_trained(task, 'afan', epochs, work_dir, num_samples=4)
        name, tap = next(iter(model.afan.config.taps.items()))
        clean, adversarial = attack_features(model, batch, name)
        images = torch.stack(list(batch['inputs']))
        draw_features(clean, adversarial, tap.strengths, images, tap.moments, tap.num_groups,
                      path=osp.join(work_dir, 'features.png'))
    return FEATURES


TASK = Task(
    name='classification',
    title='handwritten digits',
    setting="A small stock ResNet-18 (16 channels in its first stage) on 200 training and 898 test images of "
            "scikit-learn's handwritten digits",
    arms=dict(baseline='configs/mmpretrain/resnet_digits.py', afan='configs/mmpretrain/resnet_afan_digits.py'),
    metrics=(Metric('accuracy/top1', 'test accuracy'), ),
    work_dir='work_dirs/quickstart',
    epochs=30,
    epoch_cost=dict(baseline=1.0, afan=2.8),
    draw=draw)
