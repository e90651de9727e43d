"""Batches to measure with: the config's own data, or random images."""
from __future__ import annotations

import copy
import itertools
import os.path as osp
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy as np
import torch

from ..naming import type_name


def data_folder(cfg: Any) -> Optional[str]:
    """Return the folder of the config's training images, or None if it names none."""
    dataset = cfg.get('train_dataloader', {}).get('dataset', {})
    while 'data_root' not in dataset and isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    return dataset.get('data_root')


def has_data(cfg: Any) -> bool:
    """Whether the training data can be read; a config without a folder has data of its own."""
    folder = data_folder(cfg)
    return 'train_dataloader' in cfg and (not folder or osp.isdir(folder))


def load_batches(cfg: Any, count: int, batch_size: Optional[int] = None) -> List[Any]:
    """Read the first batches of the config's training data, in the order of seed 0.

    Args:
        cfg: A config with ``train_dataloader``.
        count: Number of batches.
        batch_size: Samples in a batch; None: as configured.

    Raises:
        ValueError: If there is not one batch.
    """
    return read_batches(cfg, count, batch_size)[0]


def read_batches(cfg: Any, count: int, batch_size: Optional[int] = None) -> Tuple[List[Any], int]:
    """Do what :func:`load_batches` does; return the number of batches in an epoch beside them."""
    from mmengine.registry import init_default_scope
    from mmengine.runner import Runner
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    loader = copy.deepcopy(cfg.train_dataloader)
    loader.update(num_workers=0, persistent_workers=False)
    if cfg.get('default_scope') == 'mmpretrain':
        loader.setdefault('collate_fn', dict(type='default_collate'))
    if batch_size is not None:
        loader.pop('batch_sampler', None)
        loader['batch_size'] = batch_size
    built = Runner.build_dataloader(loader, seed=0)
    batches = list(itertools.islice(built, count))
    if not batches:
        raise ValueError(f'train_dataloader must give at least one batch, got none from '
                         f'{data_folder(cfg)!r}')
    return batches, len(built)


def image_size_of(cfg: Any) -> Tuple[int, int]:
    """Return height and width of the training images: the last crop of the pipeline, else 224 x 224.

    Example:
        >>> image_size_of({'train_pipeline': [dict(type='RandomCrop', crop_size=32, padding=4)]})
        (32, 32)
        >>> image_size_of({'train_pipeline': [dict(type='RandomCrop', crop_size=(512, 1024))]})
        (512, 1024)
    """
    for step in reversed(cfg.get('train_pipeline') or []):
        size = step.get('crop_size')
        if isinstance(size, (tuple, list)) and len(size) == 2:
            return size[0], size[1]
        for key in ('crop_size', 'scale'):
            size = step.get(key)
            if isinstance(size, int) and size > 0:
                return size, size
    return 224, 224


def num_classes_of(model_cfg: Dict[str, Any]) -> int:
    """Return the number of classes of a model's head, 2 where it does not say."""
    found = [2]

    def search(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get('num_classes'), int):
                found.append(value['num_classes'])
            for item in value.values():
                search(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                search(item)

    search({k: v for k, v in model_cfg.items() if 'head' in k})
    return min(found[1:] or found)


def random_batches(cfg: Any, count: int, batch_size: int,
                   image_size: Union[int, Tuple[int, int], None] = None, seed: int = 0) -> List[Dict[str, Any]]:
    """Make batches of random uint8 images with random labels, boxes or label maps.

    Args:
        cfg: A config of mmpretrain, mmdet or mmseg.
        count: Number of batches.
        batch_size: Images in a batch.
        image_size: Side of the images in pixels, or height and width; None: see :func:`image_size_of`.
        seed: Of the random numbers.

    Returns:
        Dicts with ``inputs``, images ``(3, H, W)``, and ``data_samples``.

    Raises:
        ValueError: If the config is of another codebase.
    """
    makers = dict(mmpretrain=_labelled, mmdet=_boxed, mmseg=_mapped)
    scope = cfg.get('default_scope')
    if scope not in makers:
        raise ValueError(f'random data can be made for a default_scope of {list(makers)}, got '
                         f'{scope!r}; set the data_root of train_dataloader.dataset to a folder '
                         f'that exists')
    size = image_size_of(cfg) if image_size is None else image_size
    size = (size, size) if isinstance(size, int) else size
    random = np.random.RandomState(seed)
    return [makers[scope](cfg, batch_size, size, random) for _ in range(count)]


def _labelled(cfg: Any, batch_size: int, size: Tuple[int, int], random: np.random.RandomState) -> Dict[str, Any]:
    from mmpretrain.structures import DataSample
    labels = random.randint(num_classes_of(cfg.model), size=batch_size)
    images = random.randint(256, size=(batch_size, 3, *size), dtype=np.uint8)
    return dict(inputs=torch.from_numpy(images),
                data_samples=[DataSample().set_gt_label(int(label)) for label in labels])


def _boxed(cfg: Any, batch_size: int, size: Tuple[int, int], random: np.random.RandomState) -> Dict[str, Any]:
    """Seven boxes in an image, about the mean of COCO, and a map of the background; masks where the config loads some.

    Stock code takes masks for a reason to use them: a detector of boxes may fail where there are any.
    """
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData, PixelData
    count, samples, with_masks = 7, [], _loads_masks([cfg.get('train_dataloader'), cfg.model])
    proposed = 'roi_head' in cfg.model and 'rpn_head' not in cfg.model  # elsewhere, for Fast R-CNN
    for _ in range(batch_size):
        corners = random.uniform(0, 0.6, (count, 2)) * size[::-1]
        extents = random.uniform(0.05, 0.4, (count, 2)) * size[::-1]
        boxes = np.concatenate([corners, corners + extents], axis=1).astype(np.float32)
        masks = np.zeros((count, *size), np.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int)):
            mask[top:bottom, left:right] = 1
        sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size,
                                             scale_factor=(1.0, 1.0)))
        labels = torch.from_numpy(random.randint(num_classes_of(cfg.model), size=count))
        sample.gt_instances = InstanceData(bboxes=HorizontalBoxes(boxes), labels=labels)
        if with_masks:
            sample.gt_instances.masks = BitmapMasks(masks, *size)
        if proposed:
            sample.proposals = InstanceData(bboxes=torch.from_numpy(np.concatenate([boxes + 1, boxes * 0.8])))
        sample.ignored_instances = InstanceData(bboxes=HorizontalBoxes(boxes[:0]))
        sample.gt_sem_seg = PixelData(sem_seg=torch.zeros(1, *size, dtype=torch.long))
        samples.append(sample)
    images = random.randint(256, size=(batch_size, 3, *size), dtype=np.uint8)
    return dict(inputs=list(torch.from_numpy(images)), data_samples=samples)


def _loads_masks(part: Any) -> bool:
    """Whether a part of a config has a pipeline that loads masks, or a head that needs them."""
    if isinstance(part, dict):
        if part.get('with_mask') or type_name(part.get('type')) == 'LoadPanopticAnnotations' or part.get('mask_head'):
            return True
        part = list(part.values())
    return isinstance(part, (list, tuple)) and any(map(_loads_masks, part))


def _mapped(cfg: Any, batch_size: int, size: Tuple[int, int], random: np.random.RandomState) -> Dict[str, Any]:
    """Label maps of blocks of 32 pixels; the first row is ignored."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    block, samples = 32, []
    for _ in range(batch_size):
        classes = random.randint(num_classes_of(cfg.model), size=[-(-side // block) for side in size])
        labels = classes.repeat(block, axis=0).repeat(block, axis=1)[:size[0], :size[1]]
        labels[0] = 255
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size))
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels).long()[None])
        if 'GenerateEdge' in str(cfg.get('train_pipeline')):
            sample.gt_edge_map = PixelData(data=(torch.rand(1, *size) < 0.1).to(torch.uint8))
        samples.append(sample)
    images = random.randint(256, size=(batch_size, 3, *size), dtype=np.uint8)
    return dict(inputs=list(torch.from_numpy(images)), data_samples=samples)
