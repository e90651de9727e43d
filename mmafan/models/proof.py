"""What an unperturbed adversarial pass must show of a tap before it trains anything."""
from __future__ import annotations

import math
from typing import Any, FrozenSet, Set, Tuple

import torch
from torch import nn

from ..replay import Batch, PassKind, PassState, Recording
from ..replay.graph import leaves_among, nodes_behind
from ..replay.tree import tensors_of
from .dependence import parameters_among
from .losses import Losses
from .suffix import RunLoss, loss_tensors


def check_replay(model: Any, recording: Recording, batch: Batch, run: RunLoss, losses: Losses,
                 name: str) -> Tuple[FrozenSet[str], bool]:
    """An unperturbed adversarial pass must give the clean loss, and come to a parameter after the tap.

    Returns:
        The parameters before the tap that it comes to all the same; and whether it comes to others, without which the
        tap is not proven.
    """
    features = recording.captures[name].features
    clean = float(model.parse_losses(losses)[0].detach())
    copies = [f.clone() for f in features]
    with recording.replay(name, copies, PassState(PassKind.CHECK, 'batch')):
        with torch.autograd.graph.saved_tensors_hooks(forget, forget):  # a graph that holds no feature
            passed = run(batch)
    again = float(model.parse_losses(passed)[0].detach())
    half = any(f.dtype in (torch.float16, torch.bfloat16) for f in features)
    same = abs(again - clean) <= (1e-2 if half else 1e-4) * max(abs(clean), 1e-2)
    if recording.replays and math.isfinite(clean) and not same:
        raise ValueError(f'afan.replay must be False for this model: with the clean feature at tap {name!r} the loss '
                         f'is {again:.6g} when the modules before it replay, and {clean:.6g} when they run')
    _check_leaks(model, name, {*nodes_behind(loss_tensors(losses)), *nodes_behind(recording.captures[name].live)},
                 nodes_behind(loss_tensors(passed)))
    own = {k: passed[k] for k in recording.facts.own_losses[name] if k in passed}
    reached = parameters_among(recording, leaves_among(nodes_behind(loss_tensors(own))))
    before = recording.facts.before[name]
    if name in model.afan.taps and not reached - before:
        raise ValueError(f'afan.taps.{name}.module must name a module with something that trains after it, but nothing '
                         f'after {model.afan.config.taps[name].module!r} does: its adversarial losses would train '
                         'nothing')
    return reached & before, bool(reached - before)


def _check_leaks(model: nn.Module, name: str, clean: Set[Any], passed: Set[Any]) -> None:
    """What comes before a tap must come to a pass as a constant, on every way."""
    leaked = {node for node in clean & passed if not hasattr(node, 'variable')}
    if not leaked:
        return
    holders = [f'{path}.{attribute}' if path else attribute for path, module in model.named_modules()
               for attribute, value in vars(module).items() if not attribute.startswith('_')
               and any(tensor.grad_fn in leaked for tensor in tensors_of(value))]
    way = f'in the attribute {holders[0]!r}' if holders else (
        'on a way that cannot be followed, such as a function, a generator or a global variable')
    raise ValueError(f'afan.taps.{name}.module must name a module past which nothing of the clean pass comes with its '
                     f'gradient, but {model.afan.config.taps[name].module!r} lies after a tensor that is handed on '
                     f'{way}: return it from a module, or detach it')


def forget(_: Any) -> None:
    """Keep nothing."""
