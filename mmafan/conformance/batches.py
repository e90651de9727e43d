"""One random batch for any family: images and targets, or what the config's own pipeline makes of random images."""
from __future__ import annotations

import copy
from typing import Any, Dict, Optional

import numpy as np

from ..cli.configs import family_of, synthetic_batches, type_name

# What a random image needs not: to be loaded, or to change its colours.
LEFT_OUT = ('LoadImageFromFile', 'RandomApply', 'ColorJitter', 'RandomGrayscale', 'GaussianBlur', 'Solarize')


def make_batch(cfg: Any, count: int, side: Optional[int]) -> Any:
    """Make a batch of random images.

    Where a model of mmpretrain takes several views or masks of an image (self-supervision), they come from the
    config's own pipeline; masks are for images of its own size.

    Args:
        cfg: The config.
        count: Images in the batch.
        side: Of the images in pixels; None: the crop of the config.

    Raises:
        ValueError: If there is no random data for the codebase.
    """
    if family_of(cfg) == 'mmpretrain' and not _classifies(cfg):
        return _through_pipeline(cfg, count, side)
    batch = synthetic_batches(cfg, 1, count, side)[0]
    if len(_preprocessor(cfg).get('mean') or 'rgb') == 1:
        batch['inputs'] = batch['inputs'][:, :1]
    return batch


def _preprocessor(cfg: Any) -> Dict[str, Any]:
    return cfg.get('data_preprocessor') or cfg.model.get('data_preprocessor') or {}


def _classifies(cfg: Any) -> bool:
    kind = str(_preprocessor(cfg).get('type'))
    return 'SelfSup' not in kind and 'TwoNorm' not in kind


def _name(step: Any) -> str:
    return type_name(step['type'])


def _geometric(steps: Any) -> Any:
    """Leave out what an image of random colours needs not, also inside of views."""
    kept = [step for step in steps if _name(step) not in LEFT_OUT]
    for step in kept:
        if _name(step) == 'MultiView':
            step['transforms'] = [_geometric(view) for view in step['transforms']]
    return kept


def _through_pipeline(cfg: Any, count: int, side: Optional[int]) -> Any:
    from mmengine.dataset import Compose, default_collate
    from mmengine.registry import init_default_scope
    init_default_scope('mmpretrain')
    steps = _geometric(copy.deepcopy(list(cfg.train_dataloader.dataset.pipeline)))
    for step in steps:
        if side is not None and _name(step) == 'MultiView':
            for part in [part for view in step['transforms'] for part in view if 'scale' in part]:
                part['scale'] = side
    run, random = Compose(steps), np.random.RandomState(0)
    np.random.seed(0)
    samples = []
    for number in range(count):
        image = random.randint(256, size=(256, 256, 3), dtype=np.uint8)
        samples.append(run(dict(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2], gt_label=number,
                                img_path=f'{number}.png', sample_idx=number)))
    return default_collate(samples)
