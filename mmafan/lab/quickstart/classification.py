"""The classification demo: handwritten digits, one in an image."""
from __future__ import annotations

import os.path as osp

from ..study.measures import Measure
from ..study.recipe import Study
from ..study.runs import quiet
from .task import Arm, Metric, Task
from .trained import load_trained

FEATURES = '''\
## Features

Four test images: the clean feature at the tap of the trained A-FAN model of seed 0, the feature perturbed by every
strength, and the clean feature with the statistics of the perturbed one re-injected, which the demo's recipe leaves
out. For each image the channel that moves most, and beside it the difference from the clean feature.

![features](features.png)
'''


def draw(task: Task, study: Study, work_dir: str) -> str:
    """Draw the features of the trained A-FAN model of seed 0 on images of the test split."""
    import torch

    from ...visualization import attack_features, draw_features
    with quiet():
        model, batch = load_trained(study, 'afan', work_dir, num_samples=4)
        name, tap = next(iter(model.afan.config.taps.items()))
        clean, adversarial = attack_features(model, batch, name)
        images = torch.stack(list(batch['inputs']))
        draw_features(clean, adversarial, tap.strengths, images, tap.moments, tap.num_groups,
                      path=osp.join(work_dir, 'features.png'))
    return FEATURES


BASELINE, AFAN = (f'configs/mmpretrain/resnet_{name}.py' for name in ('digits-100', 'afan-small-data_digits-100'))
TASK = Task(
    name='classification',
    title='handwritten digits',
    setting="A thin stock ResNet (three stages, 16 channels in the first) on 100 training images without crops and 898 "
            "test images of scikit-learn's handwritten digits",
    arms=dict(
        baseline=Arm(BASELINE, title='baseline'),
        # What A-FAN computes when it is on in every step; it is on in fewer, so this arm computes more.
        equal_compute=Arm(BASELINE, title='equal compute', length=1.96),
        noise=Arm(AFAN, {'model.afan.taps.backbone.direction': 'random_sign'}, title='noise', epoch_cost=2.0),
        afan=Arm(AFAN, title='A-FAN', epoch_cost=2.0)),
    metrics=(Metric('accuracy/top1', 'test accuracy'), Metric('training accuracy/top1', 'training accuracy')),
    work_dir='work_dirs/quickstart',
    epochs=60,
    draw=draw,
    limits='All of this is about 100 small images that one thin network learns by heart: it does not show what A-FAN '
           'does for larger networks or data, and where crops can be used they gain more (docs/when_to_use.md).',
    measures=dict(training=Measure(data='train')),
    seeds=5)
