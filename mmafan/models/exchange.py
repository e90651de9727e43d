"""Whether it is known what belongs to a sample, so that a pass can be for some of them alone."""
from __future__ import annotations

import math
from typing import Any, Dict, List, Sequence

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..replay import Batch, Chosen, PassKind, Recording
from .attack import RunLoss, Suffix
from .losses import Losses


def _forget(_: Any) -> Any:
    """Keep nothing."""


def _refuse(_: Any) -> Any:
    raise RuntimeError('the forward takes gradients itself')


def run_again(suffix: Suffix) -> Losses:
    """Run a pass on clean features; its graph holds none of them."""
    with torch.autograd.graph.saved_tensors_hooks(_forget, _refuse):
        return suffix.run_pass([feature.clone() for feature in suffix.features], PassKind.CHECK)


def same_loss(after: float, before: float, features: Sequence[Tensor], tolerance: float) -> bool:
    """Whether two losses are the same up to rounding; an infinite one tells nothing."""
    half = any(f.dtype in (torch.float16, torch.bfloat16) for f in features)
    return not math.isfinite(before) or abs(after - before) <= (1e-2 if half else tolerance) * max(abs(before), 1e-2)


def check_exchange(model: Any, recording: Recording, batch: Batch, run: RunLoss, name: str) -> None:
    """Let the samples of a batch change places, where its arguments are not known to be made of samples.

    Class weights, or a table with the boxes of all images, may have as many rows as there are samples: a pass for some
    samples would cut them, or leave whole what must be cut. If each row that moves belongs to a sample, and none that
    stays, the loss is the same.

    Raises:
        ValueError: If the loss changes, with ``fraction`` below 1.
    """
    tap, afan = model.afan.config.taps[name], model.afan
    doubtful = doubtful_arguments(batch) if tap.fraction < 1 else []
    if not doubtful:
        return
    turned = Chosen(torch.arange(batch.size).roll(1), batch.size)
    asleep = _asleep(model)
    try:
        found: List[float] = []
        for chosen in (None, turned):
            suffix = Suffix(model, recording, batch, run, name, tap, chosen)
            found.append(float(model.parse_losses(run_again(suffix))[0].detach()))
    finally:
        for module in asleep:
            module.train()
    before, after = found
    if not same_loss(after, before, suffix.features, 1e-5):
        raise ValueError(f'{tap.where}.fraction must be 1.0 for this model, got {tap.fraction}: when the samples of a '
                         f'batch change places its loss changes from {before:.6g} to {after:.6g}, so that it is not '
                         f'known which rows of {", ".join(map(repr, doubtful))} belong to a sample')
    if batch.size > 1:
        afan.per_sample = (afan.per_sample or frozenset()) | batch.per_sample()


def doubtful_arguments(batch: Batch) -> List[str]:
    """Name the arguments beside the inputs of which it is not known, as of lists of data elements, what they are of."""
    def is_known(value: Any) -> bool:
        return isinstance(value, (str, int, float, bool, type(None))) or (
            isinstance(value, (list, tuple)) and len(value) == batch.size
            and all(isinstance(item, BaseDataElement) for item in value))

    places: Dict[Any, Any] = {**dict(enumerate(batch.args)), **batch.kwargs}
    return [str(name) for name, value in places.items() if value is not batch.inputs and not is_known(value)]


def _asleep(model: nn.Module) -> List[nn.Module]:
    """Switch off what draws random numbers for a sample, such as dropout; return it."""
    found = [module for module in model.modules() if module.training and next(module.children(), None) is None
             and not [*module.parameters(), *module.buffers()]]
    for module in found:
        module.eval()
    return found
