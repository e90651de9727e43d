"""One random batch for any family: images and targets, or what the config's own pipeline makes of random images."""
from __future__ import annotations

import copy
from typing import Any, Dict, Optional, Tuple

import numpy as np

from ..analysis.data import image_size_of, num_classes_of, random_batches
from ..cli.configs import family_of, synthetic_batches

LOADERS = ('LoadImageFromFile', 'LoadAnnotations', 'DecordInit')


def make_batch(cfg: Any, count: int, side: Optional[int]) -> Any:
    """Make a batch of random images.

    Where a model of mmpretrain takes several views or masks of an image (self-supervision), they come from the
    config's own pipeline, at its own size.

    Args:
        cfg: The config.
        count: Images in the batch.
        side: Of the images in pixels; None: the crop of the config.

    Raises:
        ValueError: If there is no random data for the codebase.
    """
    if family_of(cfg) == 'mmpretrain' and not _classifies(cfg):
        return _through_pipeline(cfg, count)
    return synthetic_batches(cfg, 1, count, side)[0]


def _classifies(cfg: Any) -> bool:
    given: Dict[str, Any] = cfg.get('data_preprocessor') or cfg.model.get('data_preprocessor') or {}
    return 'SelfSup' not in str(given.get('type')) and 'TwoNorm' not in str(given.get('type'))


def _through_pipeline(cfg: Any, count: int) -> Any:
    from mmengine.dataset import Compose, default_collate
    from mmengine.registry import init_default_scope
    init_default_scope('mmpretrain')
    steps = [copy.deepcopy(step) for step in cfg.train_dataloader.dataset.pipeline
             if str(step['type']).rpartition('.')[2] not in LOADERS]
    run, random = Compose(steps), np.random.RandomState(0)
    np.random.seed(0)
    samples = []
    for number in range(count):
        image = random.randint(256, size=(256, 256, 3), dtype=np.uint8)
        samples.append(run(dict(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2], gt_label=number,
                                img_path=f'{number}.png', sample_idx=number)))
    return default_collate(samples)
