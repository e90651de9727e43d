"""What must hold before a weight changes; every failure is one sentence with field, value and remedy."""
from __future__ import annotations

import difflib
import math
from dataclasses import replace
from typing import Any, Callable, Dict, Optional, Sequence

import torch
from mmengine.dist import all_reduce
from mmengine.logging import print_log
from torch import nn

from ..config import AFANConfig, TapConfig
from ..functional import feature_moments
from ..passes import Batch, PassKind, Recording, running_pass
from ..passes.graph import node_of, nodes_behind
from ..passes.tap import INPUTS
from ..passes.unused import Watch
from ..validation import suggest
from .losses import depends, is_loss, loss_tensors, select_losses
from .series import find_series

PATIENCE = 20


def check_model(model: nn.Module, config: AFANConfig) -> AFANConfig:
    """Check the taps against the modules of a freshly built model.

    Returns:
        The config; a tap at a list of modules is now at the last of them.

    Raises:
        ValueError: For a tap's module that does not exist or is never called.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    taps = dict(config.taps)
    for tap_name, tap in config.taps.items():
        where = f'afan.taps.{tap_name}.module'
        if tap.module == INPUTS:
            continue
        if tap.module not in modules:
            raise ValueError(f'{where} must name a module of {type(model).__name__}, got {tap.module!r}: '
                             f'{_closest(tap.module, model)}')
        if isinstance(modules[tap.module], nn.ModuleDict):
            entries = [f'{tap.module}.{name}' for name, _ in modules[tap.module].named_children()]
            raise ValueError(f'{where} must name a module that is called, got {tap.module!r}, a container without a '
                             f'forward; name one of its entries, such as {(entries or ["?"])[-1]!r}')
        if isinstance(modules[tap.module], nn.ModuleList):
            if not len(modules[tap.module]):
                raise ValueError(f'{where} must name a module that is called, got {tap.module!r}, an empty list')
            last = f'{tap.module}.{len(modules[tap.module]) - 1}'
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


def check_first_pass(model: Any, recording: Recording, batch: Batch,
                     run: Callable[[Batch], Dict[str, Any]], losses: Dict[str, Any]) -> bool:
    """Check, after the first clean forward and before any weight changes, that every tap works.

    Returns:
        Whether they were checked. A batch with an image without boxes, or without a row at a tap (no RoI), is no proof
        of anything; up to 20 such steps wait for a better one.

    Raises:
        ValueError: For a tap that is never reached or carries no gradient, for a fraction at a tap whose rows are not
            the samples, and where replaying the head does not reproduce the clean loss.
    """
    config, runtime = model.afan.config, model.afan
    proves_little = model._lacks_targets(batch) or any(
        c.outputs and not any(map(len, c.features)) and c.live for c in recording.captures.values())
    lacking = proves_little and runtime.num_waits < PATIENCE
    problems = [] if lacking else list(recording.check())
    for name, problem in problems:
        module = config.taps[name].module
        raise ValueError(f'afan.taps.{name}.module must name a module with a differentiable feature, but {module!r} '
                         f'{problem}; name a module between the trainable part of the network and its loss')
    if not _all_ready(not lacking):
        runtime.num_waits += 1
        return False
    recording.idle, recording.unused = {}, {}
    for name, tap in config.taps.items():
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
        # A constant is no proof: it may depend on the tap in a batch with something to compute it from.
        runtime.other_losses[name] = {k for k, v in losses.items() if k not in own and depends({k: v})}
        chosen = own
        for field, names in [('losses', tap.losses), *(('attack_losses', group) for group in tap.attack_losses or ())]:
            _check_names(losses, own, names, f'{where}.{field}', tap)
            _check_reach(model, tap, capture.live, select_losses(own, names), where)
        if tap.losses is not None:
            chosen = select_losses(own, [*tap.losses, *(n for group in tap.attack_losses or () for n in group)])
        recording.idle[name] = recording.find_idle(nodes_behind(loss_tensors(chosen)))
    for name, tap in config.taps.items():
        if config.replay and tap.module != INPUTS:
            _check_replay(model, recording, batch, run, losses, name)
    if proves_little:  # other batches may come to branches that read more
        recording.unused = {}
    return True


def _all_ready(ready: bool) -> bool:
    """Whether every process can check: a check runs layers that may wait for the other processes."""
    flag = torch.tensor(int(ready))
    all_reduce(flag, op='min')
    return bool(flag)


def _own_losses(losses: Dict[str, Any], live: Sequence[torch.Tensor]) -> Dict[str, Any]:
    """Keep the losses that depend on the feature at a tap."""
    targets = {node_of(feature) for feature in live if feature.requires_grad}
    return {k: v for k, v in losses.items() if is_loss(k) and targets & nodes_behind(loss_tensors({k: v}))}


def _check_names(losses: Dict[str, Any], own: Dict[str, Any], names: Optional[Sequence[str]], where: str,
                 tap: TapConfig) -> None:
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


def _check_reach(model: nn.Module, tap: TapConfig, live: Sequence[torch.Tensor], chosen: Dict[str, Any],
                 where: str) -> None:
    """A gradient of the losses must come to the feature."""
    tracked = [feature for feature in live if feature.requires_grad]
    try:
        with running_pass(PassKind.CHECK):  # what checkpointing recomputes stores nothing
            total = model.parse_losses(chosen)[0]  # type: ignore[operator]
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


def _check_replay(model: Any, recording: Recording, batch: Batch,
                  run: Callable[[Batch], Dict[str, Any]], losses: Dict[str, Any], name: str) -> None:
    """An unperturbed adversarial pass must give the clean loss."""
    features = recording.captures[name].features
    clean = float(model.parse_losses(losses)[0].detach())
    copies, watch = [f.clone() for f in features], Watch()
    with recording.replay(name, copies, PassKind.CHECK, 'batch', with_grad=False, watch=watch):
        again = float(model.parse_losses(run(batch))[0])
    half = any(f.dtype in (torch.float16, torch.bfloat16) for f in features)
    same = abs(again - clean) <= (1e-2 if half else 1e-4) * max(abs(clean), 1e-2)
    if math.isfinite(clean) and not same:
        raise ValueError(f'afan.replay must be False for this model: with the clean feature at tap {name!r} the loss '
                         f'is {again:.6g} when the modules before it replay, and {clean:.6g} when they run')
    recording.note_unused(name, watch)
