"""The families of a codebase, which are the folders of its configs, and the config that stands for each."""
from __future__ import annotations

import os
import os.path as osp
import re
from importlib.util import find_spec
from typing import List, Tuple

from ..cli.configs import FAMILIES
from ..validation import suggest

# Sizes of models as their configs name them, small to large.
SIZES = (('nano', 'pico', 'atto', 'xxs', 'mobile'), ('tiny', 't', 's0', 'b0', 'r18', '18', 'xs', 'n'),
         ('small', 's', 'r34', '34'), ('r50', '50', 'base', 'b', 'm'), (), ('101', 'r101', 'x101', 'large', 'l'),
         ('152', 'r152', 'huge', 'h', 'giant', 'g', 'xl', 'x', '7b', '9b'))
AVERAGE = 4


def configs_of(codebase: str) -> str:
    """Return the folder of the configs that an installed codebase ships.

    Raises:
        ValueError: If the codebase is none of the three, or ships none.
        FileNotFoundError: If it is not installed.
    """
    if codebase not in FAMILIES:
        raise ValueError(f'--codebase must be one of {FAMILIES}, got {codebase!r}; {suggest(codebase, FAMILIES)}')
    spec = find_spec(codebase)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f'{codebase} is not installed')
    return osp.join(next(iter(spec.submodule_search_locations)), '.mim', 'configs')


def family_names(codebase: str) -> List[str]:
    """List the families of a codebase."""
    folder = configs_of(codebase)
    return sorted(name for name in os.listdir(folder) if osp.isdir(osp.join(folder, name)) and name != '_base_')


def size_of(name: str) -> int:
    """Rank a config by the largest size that its name mentions.

    Example:
        >>> size_of('mask-rcnn_r50_fpn'), size_of('swin-tiny'), size_of('eva-l-p14')
        (3, 1, 5)
    """
    words = re.split(r'[-_./]', name)
    found = [rank for rank, marks in enumerate(SIZES) if any(word in marks for word in words)]
    return max(found, default=AVERAGE)


def list_configs(codebase: str, family: str) -> List[str]:
    """List the configs of a family, first the one to choose: not in a folder of its own, small, of a short name.

    Raises:
        ValueError: If there is no such family.
    """
    root = configs_of(codebase)
    if family not in family_names(codebase):
        raise ValueError(f'--family must be a folder of {root}, got {family!r}; '
                         f'{suggest(family, family_names(codebase))}')
    found: List[Tuple[int, int, int, str]] = []
    for folder, _, files in os.walk(osp.join(root, family)):
        for name in files:
            if name.endswith('.py') and not name.startswith('_'):
                path = osp.relpath(osp.join(folder, name), root)
                found.append((path.count(os.sep), size_of(name[:-3]), len(name), path))
    return [path for *_, path in sorted(found)]


def choose_config(codebase: str, family: str) -> str:
    """Return the name, such as ``mmdet::ssd/ssd300_coco.py``, of the config that stands for a family.

    It is the first of :func:`list_configs` that trains a model.

    Raises:
        ValueError: If there is none.
    """
    from mmengine.config import Config
    whole = ''
    for path in list_configs(codebase, family):
        try:
            cfg = Config.fromfile(osp.join(configs_of(codebase), path), lazy_import=None)
        except Exception:  # a file that only tools of its own read
            continue
        if 'model' in cfg and 'type' in cfg.model:
            whole = whole or path
            if 'train_dataloader' in cfg and cfg.train_dataloader:
                return f'{codebase}::{path}'
    if not whole:
        raise ValueError(f'no config of {codebase}/{family} has a model')
    return f'{codebase}::{whole}'
