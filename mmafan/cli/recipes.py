"""The recipes that ``mmafan init`` writes and ``mmafan taps`` recommends for: one table.

Each is a file of ``configs/_base_`` whose ``afan_recipe`` is taken over. Its tap in the backbone names a stage of a
ResNet (``backbone.layer2``); :mod:`mmafan.cli.stages` says which module of another backbone that is. Of its other taps
those stay whose module the model has.
"""
from __future__ import annotations

import copy
import os.path as osp
import re
from typing import Any, Dict, Optional, Tuple

from ..validation import suggest

BASES = osp.join(osp.dirname(osp.dirname(osp.abspath(__file__))), '.mim', 'configs', '_base_')

# codebase -> recipe -> files, the first whose extra taps the model has; the last one has none, or is for any model.
RECIPES: Dict[str, Dict[str, Tuple[str, ...]]] = {
    'mmpretrain': {
        'default': ('afan_recipe.py', ),
        'economy': ('afan_economy.py', ),
    },
    'mmdet': {
        'default': ('afan_detection.py', 'afan_recipe.py'),
        'economy': ('afan_detection_economy.py', 'afan_economy.py'),
        'published': ('afan_detection_published.py', 'afan_detection.py'),
    },
    'mmseg': {
        'default': ('afan_segmentation.py', 'afan_segmentation_backbone.py'),
        'economy': ('afan_segmentation_economy.py', ),
        'published': ('afan_segmentation_published.py', ),
    },
}


def recipe_names(family: str) -> Tuple[str, ...]:
    """Return the names of the recipes of a codebase."""
    return tuple(RECIPES[family])


def read_recipe(file: str) -> Dict[str, Any]:
    """Read the ``afan_recipe`` of a file of ``configs/_base_``; taps that it switches off are left out."""
    from mmengine.config import Config
    recipe = copy.deepcopy(Config.fromfile(osp.join(BASES, file)).afan_recipe.to_dict())
    recipe['taps'] = {name: tap for name, tap in recipe['taps'].items() if tap is not None}
    return recipe


def stage_of(module: str) -> Optional[int]:
    """Return which stage of a backbone a tap of a recipe names, or None where it names something else.

    Example:
        >>> stage_of('backbone.layer2'), stage_of('decode_head.bottleneck')
        (2, None)
    """
    match = re.fullmatch(r'backbone\.layer(\d)', module)
    return int(match.group(1)) if match else None


def choose_recipe(family: str, name: str, modules: Any) -> Tuple[str, Dict[str, Any]]:
    """Return the file and the fields of a recipe for a model that has the given modules.

    Args:
        family: The codebase.
        name: Of the recipe.
        modules: Paths of the model's modules.

    Raises:
        ValueError: If the codebase has no such recipe.
    """
    if name not in RECIPES[family]:
        raise ValueError(f'--recipe must be one of {recipe_names(family)} for {family}, got {name!r}: '
                         f'{suggest(name, recipe_names(family))}')
    files = RECIPES[family][name]
    for file in files:
        recipe = read_recipe(file)
        extra = [tap['module'] for tap in recipe['taps'].values() if stage_of(tap['module']) is None]
        if all(module in modules for module in extra) or file == files[-1]:
            break
    recipe['taps'] = {key: tap for key, tap in recipe['taps'].items()
                      if stage_of(tap['module']) is not None or tap['module'] in modules}
    return file, recipe
