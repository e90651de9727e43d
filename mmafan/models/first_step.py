"""What must hold before a weight changes; every failure is one sentence with field, value and remedy."""
from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, FrozenSet, Iterable, List, Optional, Sequence, Set, Tuple

import torch
from mmengine.dist import all_reduce
from mmengine.utils import is_list_of

from ..config import TapConfig
from ..functional import feature_moments
from ..replay import INPUTS, Batch, Facts, PassKind, Recording, TapCapture, running_pass
from ..replay.graph import behind, leaves_among, nodes_behind
from ..replay.tree import tensors_of
from .attack import RunLoss, Suffix
from .dependence import decide_losses, named_parameters, own_losses
from .exchange import check_exchange, doubtful_arguments, same_loss
from .losses import Losses, is_loss, keep_losses, loss_tensors, select_losses
from .shared_memory import check_copies, check_rerun, pass_again
from .tap_paths import may_return, may_run

PATIENCE = 20


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


def check_pass(model: Any, recording: Recording, batch: Batch, run: RunLoss, losses: Losses) -> Optional[Facts]:
    """Check, after a clean forward and before its weights change, every tap that has not been seen to work.

    Returns:
        What is known now; None where the step proves nothing: a batch with an image without boxes, without a row at a
        tap (no RoI), or of one sample where it has to be found out what belongs to each. Up to 20 such steps wait for a
        better one. A tap that is off and has no gradient, or whose module some batches may not come to, is checked in a
        later step.

    Raises:
        ValueError: For a tap that is never reached or carries no gradient, for a fraction at a tap whose rows are not
            the samples, where nothing after it trains, and where replaying the prefix does not reproduce the clean
            loss.
    """
    runtime, taps = model.afan, {name: model.afan.config.taps[name] for name in recording.captures}
    proves_little = runtime.codebase.lacks_targets(batch) or any(
        capture.idle == 'no rows' for capture in recording.captures.values()) or (
            any(tap.fraction < 1 for tap in taps.values()) and batch.size == 1 and bool(doubtful_arguments(batch)))
    lacking = proves_little and runtime.num_waits < PATIENCE
    found = [not lacking and _works(model, taps[name], name, capture) for name, capture in recording.captures.items()]
    facts = decide_losses(recording, recording.learned(), losses)
    agreed = all_agree([not lacking, *found])
    if not agreed[0]:
        recording.facts = facts  # this step's own passes need them
        return None
    names = [name for name, works in zip(recording.captures, agreed[1:]) if works]
    for name in names:
        if recording.captures[name].changed and taps[name].module != INPUTS:
            check_copies(model, recording, batch, run, losses, name)
    idle: Dict[str, FrozenSet[int]] = {name: frozenset() for name in taps}
    proven = set(names)
    for name in names:
        own = _check_tap(model, recording, name, taps[name], losses)
        proven -= {name} if own is None else set()
        own = own or {}
        if taps[name].losses is not None:
            attacked = [n for group in taps[name].attack_losses or () for n in group]
            own = select_losses(own, [*taps[name].losses, *attacked])
        idle[name] = recording.find_idle(nodes_behind(loss_tensors(own)))
    held = {}
    for name in sorted(proven):
        if taps[name].module != INPUTS:
            recording.facts = replace(facts, idle_calls=idle, held={name: frozenset()})
            held[name], trains = _check_replay(model, recording, batch, run, losses, name)
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
    if problem is None:
        return True
    if capture.idle == 'not reached' and may_run(model, tap.module):
        model.afan.say_once(f'tap {name!r}: {tap.module!r} has not been reached, as in a branch that not every batch '
                            'takes: A-FAN is off at it until a batch comes to it')
        return False
    if 'without gradient' in problem and not on:
        model.afan.say_once(f'tap {name!r}: {tap.module!r} {problem}; A-FAN is off there now, and needs a gradient '
                            'when it is on')
        return False
    check_feature(name, tap, capture)
    return False


def check_feature(name: str, tap: TapConfig, capture: TapCapture) -> None:
    """A clean pass must have left a feature with a gradient at the tap."""
    problem = capture.problem()
    if problem is not None:
        raise ValueError(
            f'afan.taps.{name}.module must name a module with a differentiable feature, but {tap.module!r} {problem}; '
            'name a module between the trainable part of the network and its loss')


def _check_tap(model: Any, recording: Recording, name: str, tap: TapConfig, losses: Dict[str, Any]) -> Optional[Losses]:
    """Check one tap's fields against its feature and the losses.

    Returns:
        The losses that depend on it; None where one that it names may come in a later step.
    """
    capture, where = recording.captures[name], f'afan.taps.{name}'
    rows = {len(f) for f in capture.live}
    if tap.fraction < 1 and rows != {recording.size}:
        raise ValueError(f'{where}.fraction must be 1.0 for {tap.module!r}, got {tap.fraction}: its '
                         f'feature has {sorted(rows)} rows for the {recording.size} samples of the batch')
    _check_moments(tap, capture.features, where)
    own = own_losses(losses, capture.live)
    if not own:
        raise ValueError(f'{where}.module must name a module that the losses depend on, but '
                         f'{[k for k in losses if is_loss(k)]} do not depend on the {tap.at} of {tap.module!r}')
    complete = True
    for field, names in [('losses', tap.losses), *(('attack_losses', group) for group in tap.attack_losses or ())]:
        known = None if names is None else [n for n in names if any(is_loss(k) for k in select_losses(losses, [n]))]
        for later in set(names or ()) - set(known or ()):
            if may_return(model, later):
                model.afan.say_once(f'{where}.{field} names {later!r}, which is not among the losses '
                                    f'{[k for k in losses if is_loss(k)]} so far: it counts from when it comes')
                complete, names = False, tuple(known or ())
        if names or names is None:
            _check_names(losses, own, names, f'{where}.{field}', tap)
            _check_reach(model, tap, capture.live, select_losses(keep_losses(losses, own.__contains__), names), where)
    return own if complete else None


def all_agree(flags: Sequence[bool]) -> List[bool]:
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


def _check_replay(model: Any, recording: Recording, batch: Batch, run: RunLoss, losses: Losses, name: str,
                  ) -> Tuple[FrozenSet[str], bool]:
    """An unperturbed adversarial pass must give the clean loss, and come to a parameter after the tap.

    Returns:
        The parameters before the tap that it comes to all the same; and whether it comes to others, without which the
        tap is not proven.
    """
    suffix = Suffix(model, recording, batch, run, name, model.afan.config.taps[name])
    clean = float(model.parse_losses(losses)[0].detach())
    passed = pass_again(suffix, batch, clean)
    again = float(model.parse_losses(passed)[0].detach())
    if not same_loss(again, clean, suffix.features, 1e-4):
        check_rerun(model, recording, batch, run, name, clean)
        if recording.replays:
            raise ValueError(f'afan.replay must be False for this model: with the clean feature at tap {name!r} the '
                             f'loss is {again:.6g} when the modules before it replay, and {clean:.6g} when they run')
    _check_leaks(model, name, {*nodes_behind(loss_tensors(losses)), *nodes_behind(recording.captures[name].live)},
                 nodes_behind(loss_tensors(passed)), recording.facts.before[name])
    own = {k: passed[k] for k in recording.facts.own_losses[name] if k in passed}
    leaves = leaves_among(nodes_behind(loss_tensors(own)))
    reached = named_parameters(recording, leaves)
    before = recording.facts.before[name]
    nameless = leaves - {id(parameter) for parameter in model.parameters()}  # of FSDP, for several at once
    if name in model.afan.taps and not reached - before and not nameless:
        raise ValueError(f'afan.taps.{name}.module must name a module with something that trains after it, but nothing '
                         f'after {model.afan.config.taps[name].module!r} does: its adversarial losses would train '
                         'nothing')
    return reached & before, bool(reached - before or nameless)


def _check_leaks(model: Any, name: str, clean: Set[Any], passed: Set[Any], before: Iterable[str]) -> None:
    """What comes before a tap must come to a pass as a constant, on every way.

    What a later weight alone was made into, such as a cast that autocast keeps, may serve several passes.
    """
    shared = {node for node in clean & passed if not hasattr(node, 'variable')}
    if not shared:
        return
    early = {id(parameter) for key, parameter in model.named_parameters() if key in set(before)}
    leaked = {node for node in shared if leaves_among(behind([node])) & early}
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
