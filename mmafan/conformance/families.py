"""The families of a codebase, which are the folders of its configs, and the config that stands for each."""
from __future__ import annotations

import os
import os.path as osp
import re
from importlib.util import find_spec
from typing import Any, Iterator, List, Tuple

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


def read_family_config(config: str) -> Any:
    """Read a config by the name that :func:`training_configs` gives it.

    Names with a sign such as ``+``, which mmengine does not take for one, and configs without a scope are read, too.
    """
    from mmengine.config import Config
    codebase, _, path = config.partition('::')
    cfg = Config.fromfile(osp.join(configs_of(codebase), path), lazy_import=None)
    if cfg.get('default_scope') is None:
        cfg.default_scope = codebase
    return cfg


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


def training_configs(codebase: str, family: str) -> Iterator[str]:
    """Go through the names, such as ``mmdet::ssd/ssd300_coco.py``, of the configs of a family that train a model.

    They are in the order of :func:`list_configs`; where none trains, it is the first that has a model.

    Raises:
        ValueError: If there is no such family.
    """
    from mmengine.config import Config
    whole, trains = [], False
    for path in list_configs(codebase, family):
        try:
            cfg = Config.fromfile(osp.join(configs_of(codebase), path), lazy_import=None)
        except Exception:  # a file that only tools of its own read
            continue
        if 'model' in cfg and 'type' in cfg.model:
            whole.append(f'{codebase}::{path}')
            if 'train_dataloader' in cfg and cfg.train_dataloader:
                trains = True
                yield whole[-1]
    if not trains:
        yield from whole[:1]
