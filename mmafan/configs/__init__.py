"""The shipped configs as bases of new-style ones: ``with read_base(): from mmafan.configs.mmdet.x import *``.

Every config ``configs/<folder>/<name>.py`` has a file of its name here, with underscores for dashes, that reads it.
``python -m mmafan.configs`` writes them in a clone; what they bring equals what ``_base_ = 'mmafan::...'`` brings.
"""
from __future__ import annotations

import os
import os.path as osp
from typing import Any, Dict, List

FOLDER = osp.dirname(osp.abspath(__file__))
# Links into a clone; a wheel has the files.
CONFIGS = osp.join(osp.dirname(FOLDER), '.mim', 'configs')
# Studies are no bases: a tool of their own reads them.
LEFT_OUT = ('studies', )


def config_paths() -> List[str]:
    """List the shipped configs, relative to their folder.

    Example:
        >>> 'mmpretrain/resnet_afan_digits.py' in config_paths()
        True
    """
    found = []
    for folder, folders, names in os.walk(CONFIGS, followlinks=True):
        folders[:] = sorted(name for name in folders if name not in (*LEFT_OUT, '__pycache__'))
        found += [osp.relpath(osp.join(folder, name), CONFIGS) for name in sorted(names) if name.endswith('.py')]
    return found


def module_path(config: str) -> str:
    """Return the path, relative to this folder, of the file that stands for a config.

    Example:
        >>> module_path('mmdet/faster_rcnn_r50_fpn_afan-economy_coco.py')
        'mmdet/faster_rcnn_r50_fpn_afan_economy_coco.py'
    """
    return config.replace('-', '_')


def load(file: str) -> Dict[str, Any]:
    """Read the config that a file of this folder stands for.

    Args:
        file: Path of that file.

    Raises:
        FileNotFoundError: If there is no such config.
    """
    from mmengine.config import Config

    from ..inheritance import codebase_of
    here = osp.relpath(osp.abspath(file), FOLDER)
    for config in config_paths():
        if module_path(config) == here:
            fields = Config._file2dict(osp.join(CONFIGS, config), lazy_import=False)[0]
            return plain(Config._dict_to_config_dict(fields, codebase_of(config)))
    raise FileNotFoundError(f'{file} stands for no config of {CONFIGS}; remove it, or run python -m mmafan.configs')


def plain(value: Any) -> Any:
    """Return the same value with plain dicts, whose fields a new-style config may replace.

    Example:
        >>> plain([dict(a=(1, {}))])
        [{'a': (1, {})}]
    """
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    return value
