"""What must hold before a weight changes; every failure is one sentence with field, value and remedy."""
from __future__ import annotations

import difflib
import math
from dataclasses import replace
from typing import Any, Dict, FrozenSet, Optional, Sequence

import torch
from mmengine.dist import all_reduce
from mmengine.logging import print_log
from torch import nn

from ..config import AFANConfig, TapConfig
from ..functional import feature_moments
from ..replay import INPUTS, Batch, Facts, PassKind, PassState, Recording, TapCapture, running_pass
from ..replay.graph import node_of, nodes_behind
from ..validation import suggest
from .series import find_series
from .suffix import Losses, RunLoss, depends, is_loss, loss_tensors, select_losses

PATIENCE = 20


def check_model(model: nn.Module, config: AFANConfig) -> AFANConfig:
    """Check the taps against the modules of a freshly built model.

    Returns:
        The config; a tap at a list of modules is now at the last of them.

    Raises:
        ValueError: For a tap's module that does not exist or is never called.
    """
    modules, taps = dict(model.named_modules(remove_duplicate=False)), dict(config.taps)
    for tap_name, tap in config.taps.items():
        where, module = f'afan.taps.{tap_name}.module', modules.get(tap.module)
        if tap.module == INPUTS:
            continue
        if module is None:
            raise ValueError(f'{where} must name a module of {type(model).__name__}, got {tap.module!r}: '
                             f'{_closest(tap.module, model)}')
        if isinstance(module, nn.ModuleDict):
            entries = [f'{tap.module}.{name}' for name in module] or ['?']
            raise ValueError(f'{where} must name a module that is called, got {tap.module!r}, a container without a '
                             f'forward; name one of its entries, such as {entries[-1]!r}')
        if isinstance(module, nn.ModuleList):
            if not len(module):
                raise ValueError(f'{where} must name a module that is called, got {tap.module!r}, an empty list')
            last = f'{tap.module}.{len(module) - 1}'
            print_log(f'{where}={tap.module!r} is a list of modules: the tap is its last one, {last!r}',
                      logger='current')
            taps[tap_name] = replace(tap, module=last)
    return replace(config, taps=taps)


def _closest(path: str, model: nn.Module) -> str:
    """Suggest what a wrong path may mean: a sibling of a similar name, a stage of the backbone, or a similar path."""
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    parent, _, leaf = path.rpartition('.')
    siblings = [n.rpartition('.')[2] for n in names if n.rpartition('.')[0] == parent]
    close = difflib.get_close_matches(leaf, siblings, n=3, cutoff=0.6)
    if close:
        return 'did you mean ' + ' or '.join(repr(f'{parent}.{name}' if parent else name) for name in close) + '?'
    backbone = getattr(model, 'backbone', None)
    stages = find_series(backbone) if parent == 'backbone' and isinstance(backbone, nn.Module) else []
    if stages:
        return (f'the stages of its backbone are {", ".join(repr(f"backbone.{stage}") for stage in stages)}; '
                f'`mmafan taps` lists every module that can be a tap')
    depth = path.count('.')
    hint = suggest(path, [n for n in names if n.count('.') == depth])
    return hint if hint.startswith('did') else suggest(path, [n for n in names if n.count('.') <= max(depth, 1)])


def check_first_pass(model: Any, recording: Recording, batch: Batch, run: RunLoss, losses: Losses) -> Optional[Facts]:
    """Check, after the first clean forward and before any weight changes, that every tap works.

    Returns:
        What the step has shown; None where it proves nothing: a batch with an image without boxes, or without a row at
        a tap (no RoI). Up to 20 such steps wait for a better one.

    Raises:
        ValueError: For a tap that is never reached or carries no gradient, for a fraction at a tap whose rows are not
            the samples, and where replaying the prefix does not reproduce the clean loss.
    """
    runtime, config = model.afan, model.afan.config
    proves_little = runtime.codebase.lacks_targets(batch) or any(
        c.outputs and not any(map(len, c.features)) and c.live for c in recording.captures.values())
    lacking = proves_little and runtime.num_waits < PATIENCE
    for name, capture in [] if lacking else list(recording.captures.items()):
        check_feature(name, config.taps[name], capture)
    facts = recording.learned()
    if not _all_ready(not lacking):
        return None
    idle: Dict[str, FrozenSet[int]] = {}
    others: Dict[str, FrozenSet[str]] = {}
    for name, tap in config.taps.items():
        own = _check_tap(model, recording, name, tap, losses)
        # A constant is no proof: it may depend on the tap in a batch with something to compute it from.
        others[name] = frozenset(k for k, v in losses.items() if k not in own and depends({k: v}))
        chosen = own
        if tap.losses is not None:
            chosen = select_losses(own, [*tap.losses, *(n for group in tap.attack_losses or () for n in group)])
        idle[name] = recording.find_idle(nodes_behind(loss_tensors(chosen)))
    recording.facts = facts = replace(facts, idle_calls=idle, other_losses=others)
    for name, tap in config.taps.items():
        if config.replay and tap.module != INPUTS:
            _check_replay(model, recording, batch, run, losses, name)
    return facts


def check_feature(name: str, tap: TapConfig, capture: TapCapture) -> None:
    """A clean pass must have left a feature with a gradient at the tap."""
    problem = capture.problem()
    if problem is not None:
        raise ValueError(
            f'afan.taps.{name}.module must name a module with a differentiable feature, but {tap.module!r} {problem}; '
            'name a module between the trainable part of the network and its loss')


def _check_tap(model: Any, recording: Recording, name: str, tap: TapConfig, losses: Losses) -> Losses:
    """Check one tap's fields against its feature and the losses; return the losses that depend on it."""
    capture, where = recording.captures[name], f'afan.taps.{name}'
    rows = {len(f) for f in capture.live}
    if tap.fraction < 1 and rows != {recording.size}:
        raise ValueError(f'{where}.fraction must be 1.0 for {tap.module!r}, got {tap.fraction}: its '
                         f'feature has {sorted(rows)} rows for the {recording.size} samples of the batch')
    _check_moments(tap, capture.features, where)
    own = _own_losses(losses, capture.live)
    if not own:
        raise ValueError(f'{where}.module must name a module that the losses depend on, but '
                         f'{[k for k in losses if is_loss(k)]} do not depend on the {tap.at} of {tap.module!r}')
    for field, names in [('losses', tap.losses), *(('attack_losses', group) for group in tap.attack_losses or ())]:
        _check_names(losses, own, names, f'{where}.{field}', tap)
        _check_reach(model, tap, capture.live, select_losses(own, names), where)
    return own


def _all_ready(ready: bool) -> bool:
    """Whether every process can check: a check runs layers that may wait for the other processes."""
    flag = torch.tensor(int(ready))
    all_reduce(flag, op='min')
    return bool(flag)


def _own_losses(losses: Losses, live: Sequence[torch.Tensor]) -> Losses:
    """Keep the losses that depend on the feature at a tap."""
    targets = {node_of(feature) for feature in live if feature.requires_grad}
    return {k: v for k, v in losses.items() if is_loss(k) and targets & nodes_behind(loss_tensors({k: v}))}


def _check_names(losses: Losses, own: Losses, names: Optional[Sequence[str]], where: str, tap: TapConfig) -> None:
    """Every name must match a loss that depends on the feature."""
    select_losses(losses, names, where)
    for name in names or ():
        if not any(is_loss(k) for k in select_losses(own, [name])):
            raise ValueError(f'{where} names {name!r}, which does not depend on the {tap.at} of {tap.module!r}; '
                             f'{sorted(own)} do')


def _check_moments(tap: TapConfig, features: Sequence[torch.Tensor], where: str) -> None:
    """The statistics to re-inject must exist for the tap's feature."""
    for feature in features if any(tap.reinject) else ():
        try:
            feature_moments(feature, tap.moments, num_groups=tap.num_groups, channel_dim=tap.channel_dim)
        except ValueError as error:  # its sentence begins with the field
            raise ValueError(f'{where}.{error}') from None


def _check_reach(model: Any, tap: TapConfig, live: Sequence[torch.Tensor], chosen: Losses, where: str) -> None:
    """A gradient of the losses must come to the feature."""
    tracked = [feature for feature in live if feature.requires_grad]
    try:
        with running_pass(PassKind.CHECK):  # what checkpointing recomputes stores nothing
            total = model.parse_losses(chosen)[0]
            gradients = torch.autograd.grad(total, tracked, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if 'heckpoint' not in str(error):
            raise
        raise ValueError(f'{where}.module must name a module with a differentiable feature, but {tap.module!r} feeds '
                         f'reentrant activation checkpointing that is not torch\'s (fairscale\'s is), through which no '
                         f'gradient at a tap can be taken; switch the checkpointing off') from None
    if all(gradient is None for gradient in gradients):
        raise ValueError(f'{where}.module must name a module that a gradient comes to, but none of '
                         f'{[name for name in chosen if is_loss(name)]} comes to the {tap.at} of {tap.module!r}')


def _check_replay(model: Any, recording: Recording, batch: Batch, run: RunLoss, losses: Losses, name: str) -> None:
    """An unperturbed adversarial pass must give the clean loss."""
    features = recording.captures[name].features
    clean = float(model.parse_losses(losses)[0].detach())
    copies = [f.clone() for f in features]
    with recording.replay(name, copies, PassState(PassKind.CHECK, 'batch'), with_grad=False):
        again = float(model.parse_losses(run(batch))[0])
    half = any(f.dtype in (torch.float16, torch.bfloat16) for f in features)
    same = abs(again - clean) <= (1e-2 if half else 1e-4) * max(abs(clean), 1e-2)
    if math.isfinite(clean) and not same:
        raise ValueError(f'afan.replay must be False for this model: with the clean feature at tap {name!r} the loss '
                         f'is {again:.6g} when the modules before it replay, and {clean:.6g} when they run')
