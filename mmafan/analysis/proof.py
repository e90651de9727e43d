"""Prove on one batch that A-FAN trains what the method says, and leaves everything else as the stock model does."""
from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np
import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..layers import PassAwareNorm
from ..models.losses import clean_name
from ..models.model import AFANModelMixin
from ..models.runtime import AFANRuntime
from ..tap_config import TapConfig
from .exactness import (TOLERANCE, Spread, agrees, device_of, difference, exact_arithmetic, largest, measure_spread,
                        set_seed, stream_states)
from .reference import Gradients, Reference, reference_step

STEPS = dict(two_phase=2, single_graph=2)  # later steps record less than the first


@dataclass
class Proof:
    """What :func:`prove` found.

    Attributes:
        before: Number of parameters whose gradient a tap's term has to leave at 1.0 times the stock one: those before
            the tap, and those whose losses do not depend on it.
        after: Number of those after a tap, whose gradient its term has to make 2.0 times the stock one.
        between: Number of the others: used on both sides, or in losses of which some depend on the tap. All three are
            summed over the taps.
        error: Largest difference of a gradient, as a fraction of its largest entry.
        spread: How far two runs of the stock step lie apart, where they are on a GPU; ten times as far is allowed.
        wrong: One sentence for each thing that disagrees.
    """
    before: int = 0
    after: int = 0
    between: int = 0
    error: float = 0.0
    spread: Spread = field(default_factory=Spread)
    wrong: List[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether everything agrees."""
        return not self.wrong


class _Keeper(OptimWrapper):
    """An optimizer wrapper that keeps the gradients of a step, and does not change a weight."""

    def __init__(self, model: nn.Module) -> None:
        self.names = {p: name for name, p in model.named_parameters() if p.requires_grad}
        super().__init__(torch.optim.SGD(list(self.names), lr=0.0))
        self.gradients: Gradients = {}

    def step(self, **_: Any) -> None:
        self.gradients = {name: p.grad for p, name in self.names.items() if p.grad is not None}

    def zero_grad(self, **_: Any) -> None:
        for parameter in self.names:
            parameter.grad = None


@dataclass
class _Arm:
    """A copy of the A-FAN model, and what its last step gave."""
    where: str
    model: Any
    keeper: _Keeper
    num_steps: int


def prove(model: Any, data: Any, stock: Optional[Any] = None, *, step_size: float = 1e-20, seed: int = 0,
          steps: Mapping[str, int] = STEPS) -> Proof:
    """Prove an A-FAN model against its stock model on one batch.

    With a step near 0 (``step_size`` standard deviations), ``clean_weight=1``, ``weight=1``, one strength, all samples
    and frozen norms (batch norms in ``eval()`` in all passes, those of the stock model too), the first steps have to
    give:

    - for every parameter before a tap the gradient of the stock model, for every one after it twice that gradient, and
      so on with every tap; where a parameter is on both sides, or in losses that do not depend on the tap, what
      :mod:`mmafan.analysis.reference` reads off the stock model's graph;
    - the losses of the stock model, to the last digit; on a GPU as far as the stock model repeats them itself;
    - its buffers, parameters and random streams after a step, in a further one also where norms train
      (``batch_norm='batch'``).

    Args:
        model: The A-FAN model, on the device on which to prove it; not changed.
        data: A batch, as a data loader gives it; not changed.
        stock: The stock model with the same weights; None: a copy of ``model`` without A-FAN.
        step_size: In standard deviations of each sample's feature.
        seed: Of all random streams.
        steps: Number of steps by schedule.

    Raises:
        TypeError: If ``model`` is no A-FAN model.
        ValueError: If it has no active tap, or refuses the batch.
    """
    if not isinstance(model, AFANModelMixin):
        raise TypeError(f'model must be an A-FAN model, such as mmafan.AFANImageClassifier, got {type(model).__name__}')
    taps = {name: TapConfig(tap.module, step_size, at=tap.at, step_unit='std', losses=tap.losses, where=tap.where)
            for name, tap in model.afan.config.taps.items() if tap.active}
    if not taps:
        raise ValueError('afan.taps must have a tap with a weight above 0, got none: there is nothing to prove')
    stock = stock_copy(model) if stock is None else stock
    proof, arms = Proof(), [_arm(model, taps, schedule, number) for schedule, number in steps.items()]
    with exact_arithmetic(device_of(model)):
        _compare(proof, stock, arms, data, taps, seed, frozen=True)
        if any(isinstance(module, _BatchNorm) for module in model.modules()):
            arms = [_arm(model, taps, 'auto', 1, ', norms that train')]
            _compare(proof, stock, arms, data, taps, seed, frozen=False)
    return proof


def stock_copy(model: Any) -> Any:
    """Copy an A-FAN model, and make the copy an object of the stock class again."""
    made = copy.deepcopy(model)
    made.__class__ = next(cls for cls in type(model).__mro__ if not hasattr(cls, '_afan_codebase')
                          and issubclass(cls, nn.Module) and cls.__module__ != AFANModelMixin.__module__)
    del made.afan
    for module in made.modules():
        if isinstance(module, PassAwareNorm):
            module._modules.pop('auxiliary', None)
            layer: Any = module
            layer.__class__ = next(cls for cls in type(module).__mro__
                                   if issubclass(cls, _BatchNorm) and not issubclass(cls, PassAwareNorm))
    return made


def _arm(model: Any, taps: Mapping[str, TapConfig], schedule: str, num_steps: int, note: str = '') -> _Arm:
    made = copy.deepcopy(model)
    config = replace(made.afan.config, taps=dict(taps), clean_weight=1.0, batch_norm='batch', schedule=schedule,
                     learn_strengths=None)
    made.afan = AFANRuntime(config, made.afan.norms, made.afan.codebase)
    made.afan.has_own_sum = model.afan.has_own_sum
    return _Arm(f'{schedule}{note}', made, _Keeper(made), num_steps)


def _compare(proof: Proof, stock: Any, arms: Sequence[_Arm], data: Any, taps: Mapping[str, TapConfig], seed: int,
             frozen: bool) -> None:
    """Run steps of the stock model and of all arms, and compare what they give and leave."""
    stock, lost = _prepared(copy.deepcopy(stock), frozen), []
    twin = copy.deepcopy(stock) if device_of(stock).type != 'cpu' else None
    for arm in arms:
        _prepared(arm.model, frozen)
    for step in range(max(arm.num_steps for arm in arms)):
        set_seed(seed + step)
        expected = reference_step(stock, copy.deepcopy(data), taps if frozen else {})
        streams = stream_states()
        if twin is not None and step == 0:
            set_seed(seed)
            again = reference_step(twin, copy.deepcopy(data), taps if frozen else {})
            _note_spread(proof, measure_spread((expected, stock), (again, twin)), frozen)
            twin = None
        if frozen and step == 0:
            _count(proof, expected)
        for arm in [arm for arm in arms if step < arm.num_steps]:
            set_seed(seed + step)
            log = arm.model.train_step(copy.deepcopy(data), arm.keeper)
            where = f'{arm.where}, step {step + 1}'
            if streams != stream_states():
                lost.append(f'{where}: the random streams are not where the stock model leaves them')
            _compare_losses(proof, where, expected.losses, log)
            _compare_state(proof, where, stock, arm.model)
            if frozen:
                _compare_gradients(proof, where, expected, arm.keeper.gradients)
            arm.keeper.gradients = {}
    proof.wrong += lost if lost and _repeats_streams(stock, data, seed) else []


def _repeats_streams(stock: Any, data: Any, seed: int) -> bool:
    """Whether the stock model leaves the random streams alike each time; some draw seeds from the machine."""
    found = []
    for _ in range(2):
        set_seed(seed)
        reference_step(stock, copy.deepcopy(data), {})
        found.append(stream_states())
    return bool(found[0] == found[1])


def _note_spread(proof: Proof, found: Spread, frozen: bool) -> None:
    for kind in found if frozen else ('loss', 'buffer'):  # gradients of biases before norms that train are noise
        proof.spread.add(kind, found[kind])
        if not found[kind] <= TOLERANCE:
            proof.wrong.append(f'two runs of the stock model differ by {found[kind]:.1e} in a {kind}, which proves '
                               'nothing')


def _prepared(model: Any, frozen: bool) -> Any:
    model.train()
    for module in model.modules():
        if frozen and isinstance(module, _BatchNorm):
            module.eval()
    return model


def _count(proof: Proof, expected: Reference) -> None:
    for adversarial in expected.adversarial.values():
        for name, clean in expected.clean.items():
            own = adversarial.get(name)
            if own is None or not own.any():
                proof.before += bool(clean.any())
            elif difference(own, clean) < TOLERANCE:
                proof.after += 1
            else:
                proof.between += 1


def _compare_losses(proof: Proof, where: str, stock: Dict[str, Tensor], afan: Dict[str, Tensor]) -> None:
    """Compare the terms; the sum has the adversarial ones in it."""
    for name, value in stock.items():
        if name == 'loss' and 'clean_loss' not in afan:
            continue
        found = afan.get(clean_name(name))
        if found is None or not agrees(torch.as_tensor(found), value, proof.spread.allows('loss')):
            proof.wrong.append(f'{where}: the clean {name} is {found}, of the stock model {value}')


def _compare_gradients(proof: Proof, where: str, expected: Reference, found: Gradients) -> None:
    scale, allowed = largest(expected.clean), max(TOLERANCE, proof.spread.allows('gradient'))
    if not np.isfinite(scale) or scale == 0:
        proof.wrong.append(f'{where}: the largest gradient of the stock model is {scale}, which proves nothing')
        return
    for name in {**expected.clean, **found}:
        terms = [g[name] for g in (expected.clean, *expected.adversarial.values()) if name in g]
        own = found.get(name)
        right = sum(terms[1:], terms[0]) if terms else torch.zeros_like(found[name])
        own = torch.zeros_like(right) if own is None else own
        error = difference(own, right, scale)
        proof.error = max(proof.error, error)
        if not error < allowed:
            factors = [f'{float((g * terms[0]).sum() / terms[0].square().sum()):.3f}' if terms else 'not 0'
                       for g in (own, right)]
            proof.wrong.append(f'{where}: the gradient of {name} is {factors[0]} times that of the stock model, '
                               f'right is {factors[1]} (error {error:.1e})')


def _compare_state(proof: Proof, where: str, stock: nn.Module, afan: nn.Module) -> None:
    for kind, left, right in (('buffer', stock.named_buffers(), afan.named_buffers()),
                              ('parameter', stock.named_parameters(), afan.named_parameters())):
        own: Dict[str, Tensor] = dict(right)
        for name, value in left:
            if name not in own or not agrees(own[name], value, proof.spread.allows(kind)):
                proof.wrong.append(f'{where}: the {kind} {name} is not what the step of the stock model leaves')
