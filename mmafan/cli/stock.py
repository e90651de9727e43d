"""A config and a checkpoint without anything of mmafan."""
from __future__ import annotations

import hashlib
import io
import os
import re
from typing import Any, Dict, List, Tuple

from ..registry import LAZY_MODULES
from .configs import PREFIX, type_name

SCOPE = 'mmafan'
# What a training leaves in the meta data and a user of the model needs.
META = ('dataset_meta', 'CLASSES', 'PALETTE', 'epoch', 'iter', 'mmengine_version')
SPLITS = ('train', 'val', 'test')


def is_own(kind: Any) -> bool:
    """Whether a type is one of mmafan's.

    Example:
        >>> is_own('mmafan.DigitsDataset'), is_own('mmdet.CocoDataset')
        (True, False)
    """
    place = kind if isinstance(kind, str) else getattr(kind, '__module__', '') + '.'
    return place.split('.')[0] == SCOPE


def stock_config(cfg: Any) -> Tuple[Any, List[str]]:
    """Return a copy of a config without A-FAN, and a sentence about each part that has no stock counterpart.

    Raises:
        ValueError: If the model has a part of mmafan that the weights depend on.
    """
    from mmengine.config import Config
    cfg = Config(cfg.to_dict())
    left_out: List[str] = []
    model = cfg.model
    model.pop('afan', None)
    name = type_name(model['type'])
    model['type'] = name[len(PREFIX):] if name.startswith(PREFIX) else model['type']
    _clean_model(model, 'model')
    for key in ('afan_recipe', 'load_from', 'resume', 'work_dir', 'launcher'):
        cfg.pop(key, None)
    _drop_import(cfg)
    if is_own((cfg.get('model_wrapper_cfg') or {}).get('type', '')):
        cfg.pop('model_wrapper_cfg')
    hooks = [hook for hook in cfg.get('custom_hooks') or [] if not is_own(hook['type'])]
    if hooks:
        cfg.custom_hooks = hooks
    else:
        cfg.pop('custom_hooks', None)
    for split in SPLITS:
        loader = cfg.get(f'{split}_dataloader')
        if loader and _mentions_own(loader.to_dict()):
            for part in ('dataloader', 'cfg', 'evaluator'):
                cfg.pop(f'{split}_{part}', None)
            if split == 'train':
                for key in ('optim_wrapper', 'param_scheduler'):
                    cfg.pop(key, None)
            left_out.append(f'the {split} data are of a data set that only mmafan has, and are left out of the config')
    _drop_scope(cfg._cfg_dict)
    return cfg, left_out


def _clean_model(value: Any, where: str) -> None:
    """Turn norms of mmafan into the stock ones, in place; nothing else of mmafan may be inside a model."""
    if isinstance(value, dict):
        kind = value.get('type')
        if isinstance(kind, str) and kind.rpartition('.')[2] == 'AFANNorm':
            value['type'] = 'BN'
            value.pop('policy', None)
        elif kind is not None and (is_own(kind) or kind in LAZY_MODULES):
            raise ValueError(f'{where}.type is {kind!r}, which no stock package has: a model with it cannot do without '
                             f'mmafan')
        for key, item in value.items():
            _clean_model(item, f'{where}.{key}')
    elif isinstance(value, (list, tuple)):
        for item in value:
            _clean_model(item, where)


def _drop_import(cfg: Any) -> None:
    given = cfg.get('custom_imports')
    if not given:
        return
    names = [given['imports']] if isinstance(given['imports'], str) else list(given['imports'])
    rest = [name for name in names if name.split('.')[0] != SCOPE]
    if rest:
        given['imports'] = rest
    else:
        cfg.pop('custom_imports')


def _mentions_own(value: Any) -> bool:
    if isinstance(value, dict):
        return is_own(value.get('type') or '') or any(map(_mentions_own, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_mentions_own, value))


def _drop_scope(value: Any) -> None:
    """Remove ``_scope_='mmafan'``, in place: without it a type is looked for in the default scope."""
    if isinstance(value, dict):
        if value.get('_scope_') == SCOPE:
            value.pop('_scope_')
        for item in value.values():
            _drop_scope(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _drop_scope(item)


def without_mmafan(path: str) -> None:
    """Raise a ValueError where a written config still names mmafan."""
    with open(path) as file:
        lines = [line.strip() for line in file if re.search(rf'\b{SCOPE}\b|\bAFAN\w', line)]
    if lines:
        os.remove(path)
        raise ValueError(f'the config cannot be exported: it names mmafan in {lines[0]!r}; take that out of the config '
                         f'that you export')


def read_weights(path: str) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """Return the weights of a checkpoint, those that inference uses, and the meta data a user needs."""
    from mmengine.runner.checkpoint import _load_checkpoint
    checkpoint = _load_checkpoint(path, map_location='cpu')
    if not isinstance(checkpoint.get('state_dict'), dict):
        raise ValueError(f'{path} has no state_dict: it is no checkpoint of a training with mmengine')
    meta = {key: value for key, value in (checkpoint.get('meta') or {}).items() if key in META}
    # A model saved inside a distributed wrapper has its name in front.
    weights = {re.sub(r'^module\.', '', key): value for key, value in checkpoint['state_dict'].items()}
    return weights, meta


def write_checkpoint(weights: Dict[str, Any], meta: Dict[str, Any], stem: str) -> str:
    """Write ``<stem>-<first 8 digits of the SHA-256>.pth``, as the model zoos name theirs; return the path."""
    import torch
    buffer = io.BytesIO()
    torch.save(dict(meta=meta, state_dict={key: value.contiguous() for key, value in weights.items()}), buffer)
    content = buffer.getvalue()
    path = f'{stem}-{hashlib.sha256(content).hexdigest()[:8]}.pth'
    with open(path, 'wb') as file:
        file.write(content)
    return path
