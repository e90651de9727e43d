"""Reading a config for a subcommand: by path or by ``package::name``, with or without A-FAN."""
from __future__ import annotations

import copy
import os.path as osp
from importlib.util import find_spec
from typing import Any, Tuple

from ..naming import type_name
from ..registry import scope_of_type
from ..validation import suggest

FAMILIES = ('mmpretrain', 'mmdet', 'mmseg')
PREFIX = 'AFAN'


def read_config(path: str) -> Any:
    """Read a config file, or one of an installed package such as ``mmdet::retinanet/retinanet_r50_fpn_1x_coco.py``.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it has no model, or is of no codebase.
    """
    from mmengine.config import Config
    if '::' in path:
        from mmengine.hub import get_config
        package = path.partition('::')[0]
        if find_spec(package) is None:  # mmengine would install it
            raise FileNotFoundError(f'there is no config {path!r}: {package} is not installed')
        try:
            cfg = get_config(path)
        except (FileNotFoundError, AssertionError, ModuleNotFoundError) as error:
            raise FileNotFoundError(f'there is no config {path!r}: {error}') from None
    else:
        if not osp.isfile(path):
            raise FileNotFoundError(f'there is no config file {path!r}; a config of an installed package is named '
                                    f"'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'")
        cfg = Config.fromfile(path)
    if 'model' not in cfg:
        raise ValueError(f'{path} has no model: it is a base of other configs; name a whole one')
    if cfg.get('default_scope') is None:  # as new-style configs have it, whose types are classes
        cfg.default_scope = scope_of_type(cfg.model.type)
    family_of(cfg)
    return cfg


def family_of(cfg: Any) -> str:
    """Return the codebase of a config.

    Raises:
        ValueError: If its ``default_scope`` is none.
    """
    scope = cfg.get('default_scope')
    if scope not in FAMILIES:
        raise ValueError(f'default_scope must be one of {FAMILIES}, got {scope!r}; {suggest(str(scope), FAMILIES)}')
    return scope


def stock_model(cfg: Any) -> Tuple[Any, Any]:
    """Return the model of a config without A-FAN, ready to build in its scope, and its ``afan`` field or None."""
    model = copy.deepcopy(cfg.model)
    afan = model.pop('afan', None)
    model.pop('_scope_', None)
    name = type_name(model['type'])
    if name.startswith(PREFIX):
        model['type'] = name[len(PREFIX):]
    if 'data_preprocessor' in cfg:
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    return model, afan


# The first iteration of a training.
TRAINING = dict(iter=0, epoch=0, max_iters=100, max_epochs=10)


def build_model(cfg: Any, model: Any) -> Any:
    """Build a model without loading pretrained weights, in the scope of its config."""
    from mmengine.logging import MessageHub
    from mmengine.registry import MODELS, init_default_scope
    init_default_scope(family_of(cfg))
    hub = MessageHub.get_current_instance()
    for name, value in TRAINING.items():  # stock models ask how far training is
        if hub.get_info(name) is None:
            hub.update_info(name, value)
    return MODELS.build(model)


def synthetic_batches(cfg: Any, count: int, batch_size: int, image_size: Any = None) -> Any:
    """Make random batches, and let the preprocessor of the config pad to their size, in place."""
    from ..analysis import random_batches
    batches = random_batches(cfg, count, batch_size, image_size)
    size = tuple(batches[0]['inputs'][0].shape[-2:])
    for fields in (cfg.get('data_preprocessor'), cfg.model.get('data_preprocessor')):
        if fields is not None and 'size' in fields:  # what mmseg pads to
            fields['size'] = size
    return batches
