"""One random batch for any family: images and targets, or what the config's own pipeline makes of random images."""
from __future__ import annotations

import copy
from typing import Any, Dict, Optional

import numpy as np
import torch

from ..cli.configs import family_of, synthetic_batches, type_name

PERSON = (256, 128)  # height and width: stock pooling is for these
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
    kind = type_name(_preprocessor(cfg).get('type'))
    if kind == 'ReIDDataPreprocessor':
        return _persons(synthetic_batches(cfg, 1, count, PERSON)[0])
    batch = synthetic_batches(cfg, 1, count, side)[0]
    if kind == 'TrackDataPreprocessor' and not _preprocessor(cfg).get('use_det_processor'):
        return _videos(batch)
    if kind == 'MultiBranchDataPreprocessor':
        return _branches(batch)
    channels = len(_preprocessor(cfg).get('mean') or 'rgb')
    if channels != 3:
        images = [image.repeat(-(-channels // 3), 1, 1)[:channels] for image in batch['inputs']]
        batch['inputs'] = torch.stack(images) if isinstance(batch['inputs'], torch.Tensor) else images
    return batch


def _persons(batch: Any) -> Any:
    """Whom an image shows, in the place of boxes."""
    from mmdet.structures import ReIDDataSample
    samples = [ReIDDataSample().set_gt_label(number) for number in range(len(batch['inputs']))]
    return dict(inputs=torch.stack(batch['inputs']), data_samples=samples)


def _videos(batch: Any) -> Any:
    """Videos of two frames, the second of which mirrors the first."""
    from mmdet.structures import TrackDataSample
    videos = []
    for number, sample in enumerate(batch['data_samples']):
        for instances in (sample.gt_instances, sample.ignored_instances):  # boxes are plain tensors there
            instances.bboxes = instances.bboxes.tensor
        sample.gt_instances.instances_ids = torch.arange(len(sample.gt_instances))
        frames = [sample, copy.deepcopy(sample)]
        for index, frame in enumerate(frames):
            frame.set_metainfo(dict(frame_id=index, video_id=number, video_length=len(frames)))
        video = TrackDataSample(metainfo=dict(key_frames_inds=[0], ref_frames_inds=[1]))
        video.video_data_samples = frames
        videos.append(video)
    return dict(inputs=[torch.stack([image, image.flip(-1)]) for image in batch['inputs']], data_samples=videos)


def _preprocessor(cfg: Any) -> Dict[str, Any]:
    return cfg.get('data_preprocessor') or cfg.model.get('data_preprocessor') or {}


def _classifies(cfg: Any) -> bool:
    kind = str(_preprocessor(cfg).get('type'))
    return 'SelfSup' not in kind and 'TwoNorm' not in kind


def _name(step: Any) -> str:
    return type_name(step['type'])


def _branches(batch: Any) -> Any:
    """One batch with labels, and one that a teacher labels for its student."""
    for sample in batch['data_samples']:
        sample.set_metainfo(dict(homography_matrix=np.eye(3, dtype=np.float32)))
    names = ('sup', 'unsup_teacher', 'unsup_student')
    return {key: {name: copy.deepcopy(value) for name in names} for key, value in batch.items()}


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
