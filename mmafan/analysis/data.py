"""Batches to measure with: the config's own data, or random images."""
from __future__ import annotations

import copy
import os.path as osp
from typing import Any, Dict, List, Optional

import torch


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
    from mmengine.registry import init_default_scope
    from mmengine.runner import Runner
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    loader = copy.deepcopy(cfg.train_dataloader)
    loader.update(num_workers=0, persistent_workers=False)
    if cfg.get('default_scope') == 'mmpretrain':
        loader.setdefault('collate_fn', dict(type='default_collate'))
    if batch_size is not None:
        loader.pop('batch_sampler', None)
        loader['batch_size'] = batch_size
    batches = []
    for batch in Runner.build_dataloader(loader, seed=0):
        batches.append(batch)
        if len(batches) == count:
            break
    if not batches:
        raise ValueError(f'train_dataloader must give at least one batch, got none from '
                         f'{data_folder(cfg)!r}')
    return batches


def image_size_of(cfg: Any) -> int:
    """Return the side of the training images: the last crop of the pipeline, else 224.

    Example:
        >>> image_size_of({'train_pipeline': [dict(type='RandomCrop', crop_size=32, padding=4)]})
        32
    """
    for step in reversed(cfg.get('train_pipeline') or []):
        for key in ('crop_size', 'scale'):
            size = step.get(key)
            if isinstance(size, int) and size > 0:
                return size
    return 224


def num_classes_of(model_cfg: Dict[str, Any]) -> int:
    """Return the number of classes of a classifier's head, 2 where it does not say."""
    head = model_cfg.get('head') or {}
    return int(head.get('num_classes', 2))


def random_batches(cfg: Any, count: int, batch_size: int, image_size: Optional[int] = None,
                   seed: int = 0) -> List[Dict[str, Any]]:
    """Make batches of random uint8 images with random labels, for a classification config.

    Args:
        cfg: A config of mmpretrain.
        count: Number of batches.
        batch_size: Images in a batch.
        image_size: Side of the images in pixels; None: see :func:`image_size_of`.
        seed: Of the random numbers.

    Returns:
        Dicts with ``inputs``, a tensor ``(batch_size, 3, H, W)``, and ``data_samples``.

    Raises:
        ValueError: If the config is not one of mmpretrain.
    """
    if cfg.get('default_scope') != 'mmpretrain':
        raise ValueError(f'random data can be made for classification only (default_scope '
                         f"'mmpretrain'), got {cfg.get('default_scope')!r}; set the data_root of "
                         f'train_dataloader.dataset to a folder that exists')
    from mmpretrain.structures import DataSample
    size = image_size_of(cfg) if image_size is None else image_size
    generator = torch.Generator().manual_seed(seed)
    classes = num_classes_of(cfg.model)
    batches = []
    for _ in range(count):
        shape = (batch_size, 3, size, size)
        labels = torch.randint(classes, (batch_size, ), generator=generator).tolist()
        batches.append(dict(
            inputs=torch.randint(256, shape, generator=generator, dtype=torch.uint8),
            data_samples=[DataSample().set_gt_label(label) for label in labels]))
    return batches
