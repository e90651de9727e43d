"""Which module of a backbone is its k-th stage, for any backbone.

The rule, in this order:

1. The stages are the largest series of modules, by parameters, that are numbered side by side in the backbone
   (``layer1``, ``layer2``, ...; ``stages.0``, ``stages.1``, ...; ``layers.0``, ...).
2. Of a series of five modules at the most, the k-th is stage k (the last one where there are fewer). Where no gradient
   comes to it, as to a frozen one, the next stands for it.
3. Of a longer one, stage k is the last module with an output of 1/2^(k+1) of the image's height (1/4, 1/8, 1/16, 1/32);
   where no resolution changes (a plain transformer), it is the one after k quarters of the series.
4. Where that module is a list that is never called, or hands tokens on twice (before and after they are merged), its
   last part that runs and returns one feature stands for it.
5. The stem is the last module before the series that neither pools nor drops. Where no gradient comes to one, as to a
   frozen stem, the first module of the series stands for it; of a list that is never called, its first part.
"""
from __future__ import annotations

from typing import Mapping, Optional, Sequence

from torch import nn

from ..models.tap_paths import find_series
from .probe import Candidate

MOST_STAGES = 5
STEM = 0
# Where models have their backbone: most, retrieval, tracking, and those that teach themselves.
BACKBONES = ('backbone', 'image_encoder.0', 'image_encoder', 'detector.backbone', 'student.backbone')
PASSES_ON = ('Pool', 'Drop', 'Identity')  # in the name of a class: what it returns is no feature of its own


def stage_path(stage: int, series: Sequence[str], candidates: Sequence[Candidate], height: int) -> Optional[str]:
    """Return the module that stands for a stage, or None where none can.

    Args:
        stage: From 1.
        series: As :func:`find_series` gives it.
        candidates: Modules that can be taps, in the order in which they run.
        height: Of the images, in pixels.
    """
    found = {path: resolve(path, candidates) for path in series}
    usable = [(path, tap) for path, tap in found.items() if tap is not None]
    if not usable:
        return None
    if len(series) <= MOST_STAGES:
        later = [tap for path in series[stage - 1:] for tap in [found[path]] if tap is not None]
        return (later or [usable[-1][1]])[0].path
    # Heights are rounded up where they are odd.
    fitting = [tap for _, tap in usable if height_of(tap) == -(-height // 2**(stage + 1))]
    heights = {height_of(tap) for _, tap in usable}
    if len(heights) > 1 and fitting:
        return fitting[-1].path
    return usable[max(round(len(usable) * stage / 4), 1) - 1][1].path


def stem_path(series: Sequence[str], candidates: Sequence[Candidate], kinds: Mapping[str, str]) -> Optional[str]:
    """Return the module that stands for the stem, see rule 5, or None where none can.

    Args:
        series: As :func:`find_series` gives it.
        candidates: Modules that can be taps, in the order in which they run.
        kinds: Names of the modules' classes, by path.
    """
    in_series = [any(f'{c.path}.'.startswith(f'{path}.') for path in series) for c in candidates]
    first = in_series.index(True) if True in in_series else 0
    before = [c.path for c in candidates[:first] if c.path.startswith(tuple(f'{name}.' for name in BACKBONES))
              and not any(word in kinds[c.path] for word in PASSES_ON)]
    if before:
        return before[-1]
    for path in series:
        if any(c.path == path for c in candidates):
            return path
        parts = [c.path for c in candidates if c.path.rpartition('.')[0] == path]
        if parts:
            return parts[0]
    return None


def height_of(candidate: Candidate) -> Optional[int]:
    """Height of a feature map, or None for tokens and vectors."""
    shape = candidate.shapes[0]
    return shape[2] if len(shape) == 4 else None


def resolve(path: str, candidates: Sequence[Candidate]) -> Optional[Candidate]:
    """Return the candidate that stands for a module, see rule 4; None where there is none."""
    exact = next((c for c in candidates if c.path == path), None)
    if exact is not None and not (len(exact.shapes) > 1 and all(len(shape) == 3 for shape in exact.shapes)):
        return exact
    inside = [c for c in candidates if c.path.startswith(path + '.') and len(c.shapes) == 1
              and not _merges(c.path)]
    if not inside:
        return exact
    # The blocks of a stage are one level deeper where they lie in a list of their own, but never inside a block.
    last = inside[-1].path
    outer = [c for c in inside if last == c.path or last.startswith(c.path + '.')]
    return min(outer, key=lambda c: c.path.count('.'))


def _merges(path: str) -> bool:
    return 'downsample' in path


def recommend_stage(stage: int, model: nn.Module, candidates: Sequence[Candidate], height: int) -> Optional[str]:
    """Return the module of a model that stands for a stage of its backbone (0: the stem), or None."""
    modules = dict(model.named_modules())
    name = next((name for name in BACKBONES if name in modules), None)
    if name is None:
        return None
    series = [f'{name}.{path}' for path in find_series(modules[name])]
    if stage == STEM:
        return stem_path(series, candidates, {path: type(module).__name__ for path, module in modules.items()})
    found = stage_path(stage, series, candidates, height)
    return found or next((c.path for c in candidates if c.path == name), None)
