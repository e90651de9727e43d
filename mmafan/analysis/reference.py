"""Gradients of the clean losses and of unperturbed adversarial terms, read off one graph of the stock model.

A second account of what A-FAN has to do, which shares none of its mechanism: nothing is recorded, replayed or run
again. With a step near 0 an adversarial term has the value of the clean losses that depend on the tap, and its gradient
is theirs, except that whatever came before the tap is a constant. In the graph of the clean pass these are the nodes
made before the tap was first reached, and those that its feature depends on, in any of its calls. A backward in which
no gradient enters them gives the term's. A parameter that is used there and once more later, though not on what the
feature has become (as by a stem that runs again for a shortcut), is before the tap all the same: a constant.
"""
from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Dict, List, Mapping, NamedTuple, Set

import torch
from torch import Tensor

from ..models.losses import select_losses
from ..replay.graph import takes_data
from ..tap_config import TapConfig

Gradients = Dict[str, Tensor]


class Reference(NamedTuple):
    """What a step has to give.

    Attributes:
        losses: The clean losses, as the stock model logs them.
        clean: Gradients of the clean losses, by the name of the parameter.
        adversarial: By tap, gradients of its term. What takes no part in a sum has none.
    """
    losses: Dict[str, Tensor]
    clean: Gradients
    adversarial: Dict[str, Gradients]


class TapWatch:
    """Hooks at the module of a tap, which note the nodes of its features; the model is not changed.

    Args:
        model: The stock model.
        tap: The tap.
    """

    def __init__(self, model: Any, tap: TapConfig) -> None:
        self._model, self._tap = model, tap
        self.features: Set[Any] = set()
        self.first = 0

    def __enter__(self) -> 'TapWatch':
        if self._tap.module == 'inputs':
            self._handle = None
            return self
        module = self._model.get_submodule(self._tap.module)
        if self._tap.at == 'output':
            self._handle = module.register_forward_hook(lambda _, __, output: self._note(output))
        else:
            self._handle = module.register_forward_pre_hook(lambda _, *given: self._note(given), with_kwargs=True)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._handle is not None:
            self._handle.remove()

    def _note(self, value: Any) -> None:
        nodes = {t.grad_fn for t in floats_in(value) if t.grad_fn is not None}
        if nodes and not self.features:
            self.first = _next_number()
        self.features |= nodes


def floats_in(value: Any) -> List[Tensor]:
    """List the floating tensors of nested containers and of objects with attributes."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        return [t for item in value.values() for t in floats_in(item)]
    if isinstance(value, (list, tuple)):
        return [t for item in value for t in floats_in(item)]
    fields = {} if isinstance(value, (type, torch.nn.Module)) or callable(value) else getattr(value, '__dict__', {})
    return floats_in(fields)


def _next_number() -> int:
    """Return the number of a node that is made now: they count upwards."""
    return (torch.zeros((), requires_grad=True) * 1).grad_fn._sequence_nr()  # type: ignore[union-attr]


def _behind(nodes: Set[Any]) -> Set[Any]:
    """Return the nodes that a backward from the given ones comes to, theirs included, but not the parameters."""
    seen: Set[Any] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen and not hasattr(node, 'variable'):
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions)
    return seen


def _leaves_of(nodes: Set[Any]) -> Set[Any]:
    """Return the parameters, as nodes, that the given nodes come from."""
    return {used for node in _behind(nodes) for used, _ in node.next_functions if hasattr(used, 'variable')}


def _beside(late: Set[Any], features: Set[Any]) -> Set[Any]:
    """Return the nodes made after a tap that nothing of its features goes to, but something of the batch does."""
    after, fed = set(features), {node for node in late if takes_data(node)}
    for node in sorted(late, key=lambda node: int(node._sequence_nr())):  # what a node uses was made before it
        used = {following for following, _ in node.next_functions}
        after |= {node} if used & after else set()
        fed |= {node} if used & fed else set()
    return (fed & late) - after


def _zeros(gradients: Any) -> Any:
    return tuple(None if g is None else torch.zeros_like(g) for g in gradients)


def _stopped_gradients(parameters: Mapping[str, Tensor], total: Tensor, nodes: Set[Any]) -> Gradients:
    """Run a backward in which no gradient comes past some nodes."""
    handles = [node.register_prehook(_zeros) for node in nodes]
    try:
        return _gradients(parameters, total)
    finally:
        for handle in handles:
            handle.remove()


def reference_step(model: Any, data: Any, taps: Mapping[str, TapConfig]) -> Reference:
    """Compute the gradients of one training step of a stock model, and of an unperturbed term of weight 1 for each tap.

    Args:
        model: The stock model, in training mode. Its gradients and weights are left alone.
        data: A batch, as a data loader gives it.
        taps: Where the terms are perturbed, and which losses they keep.

    Raises:
        ValueError: If no loss depends on a tap.
    """
    batch = model.data_preprocessor(data, True)
    watches = {name: TapWatch(model, tap) for name, tap in taps.items()}
    with torch.enable_grad(), ExitStack() as stack:
        for watch in watches.values():
            stack.enter_context(watch)
        losses = model(**batch, mode='loss') if isinstance(batch, dict) else model(*batch, mode='loss')
    total, logged = model.parse_losses(losses)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    everything = _behind({total.grad_fn})
    terms = {name: _depending(model, losses, tap, watches[name]) for name, tap in taps.items()}
    clean, adversarial = _gradients(parameters, total), {}
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):  # one backward is that of the step
        for name, term in terms.items():
            features, first = watches[name].features, watches[name].first
            before = everything & _behind(features)
            before |= {node for node in everything if node._sequence_nr() < first}
            adversarial[name] = _stopped_gradients(parameters, term, before)
            again = _beside(everything - before, features)
            if again:  # a module of the prefix that runs again there is still one of the prefix
                used = _stopped_gradients(parameters, term, before | again)
                early = {node.variable for node in _leaves_of(features)}
                for key, parameter in parameters.items():
                    if parameter in early and not (key in used and used[key].any()):
                        adversarial[name].pop(key, None)
    return Reference({name: torch.as_tensor(value).detach() for name, value in logged.items()}, clean, adversarial)


def _depending(model: Any, losses: Dict[str, Any], tap: TapConfig, watch: TapWatch) -> Tensor:
    """Sum the losses that the tap keeps and that depend on it."""
    kept = {}
    for name, value in select_losses(losses, tap.losses).items():
        nodes = {t.grad_fn for t in floats_in(value) if t.grad_fn is not None}
        if 'loss' in name and (tap.module == 'inputs' or _behind(nodes) & watch.features):
            kept[name] = value
    if not kept:
        raise ValueError(f'{tap.where}.module must name a module that the losses depend on, but none of '
                         f'{[name for name in losses if "loss" in name]} depends on the {tap.at} of {tap.module!r}')
    return model.parse_losses(kept)[0]


def _gradients(parameters: Mapping[str, Tensor], total: Tensor) -> Gradients:
    """Run a backward, as some layers add to gradients of their parameters themselves; leave those that are there."""
    kept = [parameter.grad for parameter in parameters.values()]
    for parameter in parameters.values():
        parameter.grad = None
    total.backward(retain_graph=True)
    found = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
    for parameter, gradient in zip(parameters.values(), kept):
        parameter.grad = gradient
    return found
