"""The recipes that ``mmafan init`` writes and ``mmafan taps`` recommends for: one table.

Each is a file of ``configs/_base_``, whose ``afan_recipe`` and whose fields of ``AdvFeatureHook`` are taken over. Its
tap in the backbone names a stage of a ResNet (``backbone.layer2``) or its stem (``backbone.relu``);
:mod:`mmafan.cli.stages` says which module of another backbone that is. Of its other taps those stay whose module the
model has.
"""
from __future__ import annotations

import copy
import os.path as osp
import re
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from ..validation import suggest
from .stages import STEM

BASES = osp.join(osp.dirname(osp.dirname(osp.abspath(__file__))), '.mim', 'configs', '_base_')
STEM_OF_RESNET = 'backbone.relu'
_SMALL = {'small-data': ('afan_small_data.py', ), 'noisy-labels': ('afan_noisy_labels.py', )}

# codebase -> recipe -> files, the first whose extra taps the model has; the last one has none, or is for any model.
RECIPES: Dict[str, Dict[str, Tuple[str, ...]]] = {
    'mmpretrain': {
        'default': ('afan_recipe.py', ),
        **_SMALL,
        'economy': ('afan_economy.py', ),
        'published': ('afan_published.py', ),
    },
    'mmdet': {
        'default': ('afan_detection.py', 'afan_detection_backbone.py'),
        **_SMALL,
        'economy': ('afan_detection_economy.py', 'afan_detection_backbone_economy.py'),
        'published': ('afan_detection_published.py', 'afan_detection.py'),
    },
    'mmseg': {
        'default': ('afan_segmentation.py', 'afan_segmentation_backbone.py'),
        **_SMALL,
        'economy': ('afan_segmentation_economy.py', 'afan_segmentation_backbone_economy.py'),
        'published': ('afan_segmentation_published.py', ),
    },
}

# What a recipe is for; docs/when_to_use.md says more.
PURPOSES = {
    'default': 'cautious, a small step in every iteration; no gain has been measured',
    'small-data': 'for few images with right labels, which the network learns by heart',
    'noisy-labels': 'for training sets of which many labels are wrong',
    'economy': 'the cautious recipe at less cost, on a share of the samples',
    'published': "the authors' steps, strengths and weights, to compare with them",
}


@dataclass
class Recipe:
    """A recipe for a model.

    Attributes:
        file: Of ``configs/_base_``.
        fields: The value of ``afan``.
        hook: Fields of ``AdvFeatureHook``.
        left_out: By tap that the model has no place for, the module it names.
    """
    file: str
    fields: Dict[str, Any]
    hook: Dict[str, Any]
    left_out: Dict[str, str]

    @property
    def taps(self) -> Dict[str, Dict[str, Any]]:
        """Fields of the taps, by name."""
        return self.fields['taps']


def recipe_names(family: str) -> Tuple[str, ...]:
    """Return the names of the recipes of a codebase."""
    return tuple(RECIPES[family])


def read_recipe(file: str) -> Recipe:
    """Read a recipe of a file of ``configs/_base_``; taps that it switches off are left out."""
    from mmengine.config import Config
    cfg = Config.fromfile(osp.join(BASES, file))
    fields = copy.deepcopy(cfg.afan_recipe.to_dict())
    fields['taps'] = {name: tap for name, tap in fields['taps'].items() if tap is not None}
    hooks: List[Dict[str, Any]] = [dict(hook) for hook in cfg.get('custom_hooks') or []]
    hook = next((hook for hook in hooks if hook['type'] == 'mmafan.AdvFeatureHook'), {})
    return Recipe(file, fields, {key: value for key, value in hook.items() if key != 'type'}, {})


def stage_of(module: str) -> Optional[int]:
    """Return which stage of a backbone a tap of a recipe names, 0 for the stem, or None where it names something else.

    Example:
        >>> stage_of('backbone.layer2'), stage_of('backbone.relu'), stage_of('decode_head.bottleneck')
        (2, 0, None)
    """
    match = re.fullmatch(r'backbone\.layer(\d)', module)
    return int(match.group(1)) if match else STEM if module == STEM_OF_RESNET else None


def choose_recipe(family: str, name: str, modules: Any) -> Recipe:
    """Return a recipe for a model that has the given modules.

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
        recipe.left_out = {key: tap['module'] for key, tap in recipe.taps.items()
                           if stage_of(tap['module']) is None and tap['module'] not in modules}
        if not recipe.left_out or file == files[-1]:
            break
    for key in recipe.left_out:
        del recipe.taps[key]
    return recipe
