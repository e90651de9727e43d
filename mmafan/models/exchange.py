"""Whether it is known what belongs to a sample, so that a pass can be for some of them alone."""
from __future__ import annotations

import math
from typing import Any, List

import torch
from torch import nn

from ..replay import Batch, Chosen, PassKind, Recording
from .attack import RunLoss, Suffix


def _forget(_: Any) -> Any:
    """Keep nothing."""


def check_exchange(model: Any, recording: Recording, batch: Batch, run: RunLoss, name: str) -> None:
    """Let the samples of a batch change places, where its arguments are not known to be made of samples.

    Class weights, or a table with the boxes of all images, may have as many rows as there are samples: a pass for some
    samples would cut them, or leave whole what must be cut. If each row that moves belongs to a sample, and none that
    stays, the loss is the same.

    Raises:
        ValueError: If the loss changes, with ``fraction`` below 1.
    """
    tap, afan = model.afan.config.taps[name], model.afan
    doubtful = batch.doubtful() if tap.fraction < 1 else []
    if not doubtful:
        return
    turned = Chosen(torch.arange(batch.size).roll(1), batch.size)
    asleep = _asleep(model)
    try:
        found: List[float] = []
        for chosen in (None, turned):
            with torch.autograd.graph.saved_tensors_hooks(_forget, _forget):  # a graph that holds no feature
                suffix = Suffix(model, recording, batch, run, name, tap, chosen)
                losses = suffix.run_pass([f.clone() for f in suffix.features], PassKind.CHECK)
                found.append(float(model.parse_losses(losses)[0].detach()))
    finally:
        for module in asleep:
            module.train()
    half = any(f.dtype in (torch.float16, torch.bfloat16) for f in suffix.features)
    before, after = found
    if math.isfinite(before) and abs(after - before) > (1e-2 if half else 1e-5) * max(abs(before), 1e-2):
        raise ValueError(f'{tap.where}.fraction must be 1.0 for this model, got {tap.fraction}: when the samples of a '
                         f'batch change places its loss changes from {before:.6g} to {after:.6g}, so that it is not '
                         f'known which rows of {", ".join(map(repr, doubtful))} belong to a sample')
    if batch.size > 1:
        afan.per_sample = (afan.per_sample or frozenset()) | batch.per_sample()


def _asleep(model: nn.Module) -> List[nn.Module]:
    """Switch off what draws random numbers for a sample, such as dropout; return it."""
    found = [module for module in model.modules() if module.training and next(module.children(), None) is None
             and not [*module.parameters(), *module.buffers()]]
    for module in found:
        module.eval()
    return found
