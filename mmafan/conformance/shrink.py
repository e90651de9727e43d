"""Make a config fit for a few steps on a CPU: its model as it is, but nothing to load, and nothing that needs a GPU."""
from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Tuple

SYNC_NORMS = ('SyncBN', 'MMSyncBN')
# Keys whose values are files or addresses of weights.
WEIGHTS = ('pretrained', 'teacher_ckpt')
# Numbers of blocks, by stage: how many stay.
BLOCKS = dict(depths=2, num_modules=1, num_blocks=1)
IMAGE_SIZES = {'mmpretrain': (64, 32, None), 'mmdet': (64, 320), 'mmseg': (64, 128, None)}


def shrink_model(value: Any, image_size: Optional[int] = None) -> Any:
    """Change the model of a config, in place; return it.

    - No weights are loaded: ``pretrained`` and ``init_cfg`` with a ``checkpoint`` become None.
    - ``SyncBN`` becomes ``BN``; activation checkpointing is switched off, as it changes no value.
    - Stages keep one or two of their blocks (``depths``, ``num_blocks``, ``num_modules``).
    - Where a part is built for images of one size (``img_size``), it is for ``image_size``; images are padded to no
      more than that.
    - Where the names of classes are put into sentences (``templates``), there is one.

    Args:
        value: The model, or a part of it.
        image_size: Side of the images; None: those of the config.

    Example:
        >>> shrink_model(dict(type='ResNet', norm_cfg=dict(type='SyncBN'), pretrained='torchvision://resnet50'))
        {'type': 'ResNet', 'norm_cfg': {'type': 'BN'}, 'pretrained': None}
    """
    if isinstance(value, dict):
        for key, item in list(value.items()):
            if key in WEIGHTS and isinstance(item, str) or _loads(key, item):
                value[key] = None
            elif key == 'type' and item in SYNC_NORMS:
                value[key] = 'BN'
            elif key in ('with_cp', 'use_checkpoint') and item is True:
                value[key] = False
            elif key == 'img_size' and image_size is not None:
                value[key] = image_size if isinstance(item, int) else type(item)([image_size] * len(item))
            elif key == 'size_divisor' and image_size is not None and isinstance(item, int):
                value[key] = min(item, image_size)
            elif key == 'templates' and isinstance(item, str):
                value[key] = ['{}']
            elif key in BLOCKS:
                value[key] = _fewer(item, BLOCKS[key])
            else:
                shrink_model(item, image_size)
    elif isinstance(value, (list, tuple)):
        for item in value:
            shrink_model(item, image_size)
    return value


def narrow_resnet(model: Any) -> bool:
    """Give a ResNet, and what takes its features, a quarter of the channels, in place; return whether there is one.

    Stock code may build on the number of channels all the same: who calls this tries the model as it is, too.

    Example:
        >>> model = dict(backbone=dict(type='ResNetV1c'), decode_head=dict(in_channels=2048, channels=512))
        >>> narrow_resnet(model), model['decode_head'], model['backbone']['base_channels']
        (True, {'in_channels': 512, 'channels': 128}, 16)
    """
    backbone = model.get('backbone')
    if not isinstance(backbone, dict) or not str(backbone.get('type')).startswith('ResNet') or len(
            {'base_channels', 'stem_channels'} & set(backbone)):
        return False
    backbone.update(base_channels=16, stem_channels=16)
    takers = [model['neck']] if isinstance(model.get('neck'), (list, dict)) else []
    if not any('in_channels' in taker for taker in takers if isinstance(taker, dict)):
        takers = [part for key, part in model.items() if key.endswith('head')]
    for part in [item for taker in takers for item in (taker if isinstance(taker, list) else [taker])]:
        for key in ('in_channels', 'channels', 'c1_in_channels'):
            if isinstance(part, dict) and key in part:
                part[key] = _quarter(part[key])
    return True


def _quarter(value: Any) -> Any:
    return value // 4 if isinstance(value, int) else type(value)(item // 4 for item in value)


def _loads(key: str, value: Any) -> bool:
    """Whether an ``init_cfg``, or one of several, loads weights."""
    items: List[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
    return key == 'init_cfg' and any(isinstance(item, dict) and 'checkpoint' in item for item in items)


def _fewer(value: Any, most: int) -> Any:
    if isinstance(value, int):
        return min(value, most)
    whole = isinstance(value, (list, tuple)) and all(isinstance(item, int) for item in value)
    return type(value)(min(item, most) for item in value) if whole else value


@contextmanager
def short_resnets() -> Iterator[None]:
    """Let the ResNets that are built inside, of any depth, have one block in each stage."""
    from mmengine.registry import MODELS
    kept: List[Tuple[Any, Dict[Any, Any]]] = []
    for registry in [MODELS, *MODELS._children.values()]:
        for cls in list(registry._module_dict.values()):
            own = vars(cls).get('arch_settings') if isinstance(cls, type) else None
            if isinstance(own, dict) and all(_is_setting(value) for value in own.values()):
                kept.append((cls, own))
                cls.arch_settings = {depth: (block, (1, ) * len(blocks)) for depth, (block, blocks) in own.items()}
    try:
        yield
    finally:
        for cls, own in kept:
            cls.arch_settings = own


def _is_setting(value: Any) -> bool:
    """Whether this is a kind of block and its number in each stage."""
    return (isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], type)
            and isinstance(value[1], tuple) and all(isinstance(number, int) for number in value[1]))
