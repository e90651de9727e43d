"""What must hold before a weight changes; every failure is one sentence with field, value and remedy."""
from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Any, Dict, FrozenSet, List, Optional, Sequence

import torch
from mmengine.dist import all_reduce
from mmengine.logging import print_log
from mmengine.utils import is_list_of
from torch import nn

from ..config import AFANConfig, TapConfig
from ..functional import feature_moments
from ..replay import INPUTS, Batch, Facts, PassKind, Recording, TapCapture, running_pass
from ..replay.graph import nodes_behind
from ..validation import suggest
from .dependence import decide_losses, losses_of
from .exchange import check_exchange
from .losses import Losses, is_loss, keep_losses
from .proof import check_replay
from .reach import may_run
from .series import find_series
from .suffix import RunLoss, loss_tensors, select_losses

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
    places: Dict[Any, str] = {}
    for tap_name, tap in taps.items():
        other = places.setdefault((id(modules.get(tap.module, tap.module)), tap.at), tap_name)
        if other != tap_name:
            raise ValueError(f'afan.taps.{tap_name}.module must differ from that of afan.taps.{other}, but '
                             f'{tap.module!r} and {taps[other].module!r} are one module under two names')
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


def check_losses(model: Any, losses: Any) -> None:
    """Raise a ValueError unless a forward has returned a dict of losses."""
    kind = type(model).__name__
    if not isinstance(losses, dict):
        raise ValueError(f"{kind} must return a dict of losses in mode='loss', got {type(losses).__name__}")
    if not model.afan.has_own_sum:
        for key, value in losses.items():
            if not isinstance(value, torch.Tensor) and not is_list_of(value, torch.Tensor):
                raise ValueError(f'{key!r} among the losses of {kind} must be a tensor or a list of tensors, got '
                                 f'{value!r}')


def check_pass(model: Any, recording: Recording, batch: Batch, run: RunLoss,
               losses: Losses) -> Optional[Facts]:
    """Check, after a clean forward and before its weights change, every tap that has not been seen to work.

    Returns:
        What is known now; None where the step proves nothing: a batch with an image without boxes, or without a row at
        a tap (no RoI). Up to 20 such steps wait for a better one. A tap that is off and has no gradient, or whose
        module some batches may not come to, is checked in a later step.

    Raises:
        ValueError: For a tap that is never reached or carries no gradient, for a fraction at a tap whose rows are not
            the samples, where nothing after it trains, and where replaying the prefix does not reproduce the clean
            loss.
    """
    runtime, taps = model.afan, {name: model.afan.config.taps[name] for name in recording.captures}
    proves_little = runtime.codebase.lacks_targets(batch) or any(
        capture.idle == 'no rows' for capture in recording.captures.values())
    lacking = proves_little and runtime.num_waits < PATIENCE
    found = [not lacking and _works(model, taps[name], name, capture) for name, capture in recording.captures.items()]
    facts = decide_losses(recording, recording.learned(), losses)
    agreed = _all_agree([not lacking, *found])
    if not agreed[0]:
        recording.facts = facts  # this step's own passes need them
        return None
    names = [name for name, works in zip(recording.captures, agreed[1:]) if works]
    idle: Dict[str, FrozenSet[int]] = {name: frozenset() for name in taps}
    for name in names:
        own = _check_tap(model, recording, name, taps[name], losses)
        if taps[name].losses is not None:
            attacked = [n for group in taps[name].attack_losses or () for n in group]
            own = select_losses(own, [*taps[name].losses, *attacked])
        idle[name] = recording.find_idle(nodes_behind(loss_tensors(own)))
    held: Dict[str, FrozenSet[str]] = {}
    proven = set(names)
    for name in names:
        if taps[name].module != INPUTS:
            recording.facts = replace(facts, idle_calls=idle, held={name: frozenset()})
            held[name], trains = check_replay(model, recording, batch, run, losses, name)
            proven -= set() if trains else {name}
    recording.facts = replace(facts, idle_calls=idle, held=held, proven=frozenset(proven))
    for name in names:
        check_exchange(model, recording, batch, run, name)
    return recording.facts


def _works(model: Any, tap: TapConfig, name: str, capture: TapCapture) -> bool:
    """Whether a tap can be checked in this step; later is soon enough where it is off or in a branch of the model.

    Raises:
        ValueError: If it will never work.
    """
    problem, on = capture.problem(), name in model.afan.taps
    if capture.idle == 'not reached' and may_run(model, tap.module):
        model.afan.say_once(f'tap {name!r}: {tap.module!r} has not been reached, as in a branch that not every batch '
                            'takes: A-FAN is off at it until a batch comes to it')
        return False
    if problem is not None and 'without gradient' in problem and not on:
        model.afan.say_once(f'tap {name!r}: {tap.module!r} {problem}; A-FAN is off there now, and needs a gradient '
                            'when it is on')
        return False
    check_feature(name, tap, capture)
    return True


def check_feature(name: str, tap: TapConfig, capture: TapCapture) -> None:
    """A clean pass must have left a feature with a gradient at the tap."""
    problem = capture.problem()
    if problem is not None:
        raise ValueError(
            f'afan.taps.{name}.module must name a module with a differentiable feature, but {tap.module!r} {problem}; '
            'name a module between the trainable part of the network and its loss')


def _check_tap(model: Any, recording: Recording, name: str, tap: TapConfig, losses: Dict[str, Any]) -> Dict[str, Any]:
    """Check one tap's fields against its feature and the losses; return the losses that depend on it."""
    capture, where = recording.captures[name], f'afan.taps.{name}'
    rows = {len(f) for f in capture.live}
    if tap.fraction < 1 and rows != {recording.size}:
        raise ValueError(f'{where}.fraction must be 1.0 for {tap.module!r}, got {tap.fraction}: its '
                         f'feature has {sorted(rows)} rows for the {recording.size} samples of the batch')
    _check_moments(tap, capture.features, where)
    own = losses_of(losses, capture.live)
    if not own:
        raise ValueError(f'{where}.module must name a module that the losses depend on, but '
                         f'{[k for k in losses if is_loss(k)]} do not depend on the {tap.at} of {tap.module!r}')
    for field, names in [('losses', tap.losses), *(('attack_losses', group) for group in tap.attack_losses or ())]:
        _check_names(losses, own, names, f'{where}.{field}', tap)
        _check_reach(model, tap, capture.live, select_losses(keep_losses(losses, own.__contains__), names), where)
    return own


def _all_agree(flags: Sequence[bool]) -> List[bool]:
    """Whether each flag is true in every process: a check runs layers that may wait for the other processes."""
    numbers = torch.tensor([int(flag) for flag in flags])
    all_reduce(numbers, op='min')
    return [bool(number) for number in numbers]


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
