"""Which losses and which parameters depend on a tap, read off the graph of a clean pass."""
from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, FrozenSet, Sequence, Set, Tuple

import torch

from ..replay import Facts, Recording
from ..replay.graph import leaves_before, leaves_until, node_of, nodes_behind
from .losses import Losses, depends, loss_tensors


def decide_losses(recording: Recording, facts: Facts, losses: Dict[str, Any]) -> Facts:
    """Decide for each tap which losses depend on it, where one is new or the tap's module ran another number of times.

    A constant is no proof: it may depend on the tap in a batch with something to compute it from.
    """
    names = {key for key in losses if depends({key: losses[key]})}
    own, others = dict(facts.own_losses), dict(facts.other_losses)
    calls, before, until, held = dict(facts.num_calls), dict(facts.before), dict(facts.until), dict(facts.held)
    for name, capture in recording.captures.items():
        again = len(capture.outputs) != calls.get(name)
        new = names if again else names - own[name] - others[name]
        if not capture.live or not new:
            continue
        found = frozenset(own_losses({key: losses[key] for key in new}, capture.live))
        own[name] = found if again else own[name] | found
        others[name] = (others.get(name, frozenset()) | new) - own[name]
        if again and name in recording.modules:
            before[name], until[name] = _before(recording, name, losses)
            held.pop(name, None)  # which of them a pass comes to is no longer known
        calls[name] = len(capture.outputs)
    return replace(facts, own_losses=own, other_losses=others, num_calls=calls, before=before,
                   until=until, held=held)


def own_losses(losses: Losses, live: Sequence[torch.Tensor]) -> Losses:
    """Keep the losses that depend on the feature at a tap."""
    targets = {node_of(feature) for feature in live if feature.requires_grad}
    return {k: v for k, v in losses.items() if targets & nodes_behind(loss_tensors({k: v}))}


def _before(recording: Recording, name: str, losses: Dict[str, Any]) -> Tuple[FrozenSet[str], FrozenSet[str]]:
    """Name the parameters that are used before a tap alone, and those that are used there and elsewhere."""
    sources, nodes = [node_of(feature) for feature in recording.captures[name].live], nodes_behind(loss_tensors(losses))
    before = leaves_before(sources, nodes)
    return named_parameters(recording, before), named_parameters(recording, leaves_until(sources[0], nodes) - before)


def named_parameters(recording: Recording, found: Set[int]) -> FrozenSet[str]:
    """Name the parameters with these values of ``id``."""
    return frozenset(name for name, parameter in recording.model.named_parameters() if id(parameter) in found)
