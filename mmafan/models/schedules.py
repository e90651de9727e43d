"""The two ways to descend the parts of a step: a backward for each in turn, or one for their sum."""
from __future__ import annotations

import functools
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.dist import is_distributed
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from ..layers.afan_norm import AUXILIARY
from ..replay import Batch, running_pass
from ..replay.state import Patches
from .joined import JoinedStep
from .losses import Losses, depends, detach_losses, weight_losses
from .step import Part, Step

ZERO = 'afan_zero'


# ---------------------------------------------------------------------- two-phase
def train_two_phase(model: Any, data: Any, optim_wrapper: OptimWrapper, wrapper: Optional[nn.Module] = None,
                    single_graph: bool = False) -> Dict[str, Tensor]:
    """Train one step: clean forward and backward, then each adversarial forward and backward, gradients adding up.

    Args:
        model: The A-FAN model.
        data: As for ``BaseModel.train_step``.
        optim_wrapper: As for ``BaseModel.train_step``.
        wrapper: The ``DistributedDataParallel`` around the model. The last part alone runs through its forward, so
            that processes exchange gradients once, while the last backward runs.
        single_graph: Run all parts through the forward of ``wrapper`` instead, and one backward.

    Returns:
        Log variables: total loss, weighted clean losses, ``adv_<tap>_<i>.<name>``.
    """
    afan = model.afan
    afan.controls.loss_scaler = getattr(optim_wrapper, 'loss_scaler', None)
    with optim_wrapper.optim_context(model):
        data = model.data_preprocessor(data, True)
    own = wrapper is None and owns_run_forward(type(model))  # a wrapper calls the forward, whatever the model has
    batch = Batch((data, ), {}) if own else Batch.of(data, model.forward)

    def run(batch: Batch) -> Losses:
        with optim_wrapper.optim_context(model):
            return afan.run(model, batch, functools.partial(model._run_forward if own else model, mode='loss'))

    log: Losses = {}
    zero: Optional[Tensor]
    try:
        whole = Part(functools.partial(_merged, model, batch), is_last=True)
        for part in [whole] if single_graph else Step(model, batch, run).parts():
            zero = None
            if part.is_last and wrapper is not None:
                losses, zero = _run_wrapped(model, wrapper, optim_wrapper, part.losses)
            else:
                losses = part.losses()
            log.update(detach_losses(losses))
            with running_pass(part.kind, afan.config.batch_norm):  # for what is recomputed
                _backward(model, optim_wrapper, losses, part.is_last, zero)
            del part, losses
    except BaseException:
        optim_wrapper.zero_grad()  # half a step's gradients must not leak into the next
        for factor in {} if afan.learned is None else afan.learned.factors.values():
            factor.grad = None
        raise
    return model.parse_losses(log)[1]


def _backward(model: Any, optim_wrapper: Any, losses: Losses, is_last: bool, zero: Optional[Tensor]) -> None:
    """Accumulate gradients; the last backward of a step lets the optimizer make its step."""
    total = model.parse_losses(losses)[0] if depends(losses) else None
    if is_last:
        if total is None and zero is None:
            zero = zero_of([p for p in model.parameters() if p.grad is not None][:1])
        terms = [term for term in (total, zero) if term is not None]
        optim_wrapper.update_params(sum(terms[1:], terms[0]))
    elif total is not None:
        # `backward` counts iterations for gradient accumulation; all parts of a step are one iteration.
        count = optim_wrapper._inner_count
        optim_wrapper.backward(optim_wrapper.scale_loss(total))
        optim_wrapper._inner_count = count


def _run_wrapped(model: Any, wrapper: Any, optim_wrapper: OptimWrapper,
                 compute: Callable[[], Losses]) -> Tuple[Losses, Tensor]:
    """Compute losses inside of the wrapper's forward, and a zero that depends on every parameter.

    The last backward alone is exchanged, and the prefix takes no part in it: its gradient there is zero.
    """
    patches = Patches()

    def forward(**_: Any) -> Losses:
        patches.undo()
        return {**compute(), ZERO: zero_of([p for p in model.parameters() if p.requires_grad])}

    patches.set(model, 'forward', forward)
    try:
        with optim_wrapper.optim_context(wrapper):
            losses = wrapper(mode='loss')
    finally:
        patches.undo()
    return losses, losses.pop(ZERO)


class _Zero(torch.autograd.Function):
    """Zero, with a gradient of zeros for each tensor it is made of."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        ctx.likes = [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]
        return tensors[0].new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        made: Dict[Any, Tensor] = {}
        for shape, dtype, device in ctx.likes:
            if (dtype, device) not in made:
                made[dtype, device] = torch.zeros((), dtype=dtype, device=device)
        return tuple(made[dtype, device].expand(shape) for shape, dtype, device in ctx.likes)


def zero_of(parameters: Sequence[Tensor]) -> Tensor:
    """Return zero, with a gradient of zeros for each parameter."""
    return _Zero.apply(*parameters)


def runs_two_phase(model: Any, optim_wrapper: Any) -> bool:
    """Whether the next step runs in two phases.

    Raises:
        ValueError: If ``afan.schedule`` demands them where they are not possible.
    """
    if not model.afan.taps:
        return False
    schedule, able = model.afan.config.schedule, owns_step(model, optim_wrapper)
    own = _own_method(optim_wrapper)
    if schedule == 'two_phase' and (not able or own == 'update_params'):
        owner, kind = _step_owner(model), type(optim_wrapper).__name__
        reason = (f'{owner.__name__} has a train_step of its own' if owner is not BaseModel else
                  f'{kind} has an update_params of its own, which must see the whole loss' if able else
                  f'the optimizer wrapper is a {kind}')
        raise ValueError(f"afan.schedule='two_phase' is not possible here ({reason}), use 'single_graph'")
    return able and (schedule == 'two_phase' or schedule == 'auto' and own is None)


def _own_method(optim_wrapper: Any) -> Optional[str]:
    """Name what an optimizer wrapper does in its own way with a loss, which it expects to be the whole one."""
    for name in ('update_params', 'backward', 'scale_loss'):
        method = getattr(optim_wrapper, name, None)
        if method is not None and not method.__module__.startswith('mmengine.'):
            return name
    return None


def owns_step(model: Any, optim_wrapper: Any) -> bool:
    """Whether the training step may be made here: the stock model has none of its own."""
    return _step_owner(model) is BaseModel and isinstance(optim_wrapper, OptimWrapper)


def owns_run_forward(cls: type) -> bool:
    """Whether a class of models has its own way from preprocessed data to its forward."""
    owner = next(c for c in cls.__mro__ if '_run_forward' in vars(c))
    return owner is not BaseModel


def _step_owner(model: Any) -> type:
    return next(c for c in type(model).__mro__ if 'train_step' in vars(c) and not hasattr(c, '_afan_codebase'))


# ---------------------------------------------------------------------- single-graph
def single_graph_losses(model: Any, stock_loss: Callable[..., Losses], args: Any, kwargs: Any) -> Losses:
    """Return the stock losses, or clean and adversarial ones as one sum where A-FAN is on and nobody else is."""
    afan = model.afan
    if afan.inside or not (model.training and torch.is_grad_enabled()):
        return stock_loss(*args, **kwargs)
    if not afan.taps:
        afan.waiting.take()  # too old by the time that A-FAN is on again
    if not afan.taps and afan.facts is not None:
        return _with_auxiliary(model, _sat_out(afan, stock_loss(*args, **kwargs)))

    def run(batch: Batch) -> Losses:
        return afan.run(model, batch, stock_loss)

    kind = JoinedStep if afan.config.schedule == 'joined' else Step
    step = kind(model, Batch(args, kwargs, stock_loss), run)
    if not step.taps:
        return _with_auxiliary(model, _sat_out(afan, step.clean_pass()[1]))
    if is_distributed() and not afan.wrapped:
        if afan.config.schedule == 'two_phase':
            raise ValueError("afan.schedule='two_phase' is not possible under the distributed wrapper of the model, "
                             "which owns the backward; use 'auto', or model_wrapper_cfg=dict("
                             "type='mmafan.AFANDistributedDataParallel')")
        if afan.config.schedule == 'auto':
            afan.say_once('A-FAN runs with the single-graph schedule, because the distributed wrapper of the model '
                          'calls its forward and owns the backward: same gradients, more memory than two-phase')
    merged: Losses = {}
    for part in step.parts(keeps_graph=True):
        merged.update(part.losses())
    return _with_auxiliary(model, merged)


def _sat_out(afan: Any, losses: Losses) -> Losses:
    """Weight the losses of a step that no tap takes part in as those of others, where it is one of ``every`` few."""
    if not afan.is_on:
        return losses
    afan.controls.iteration += 1
    return weight_losses(losses, afan.config.clean_weight)


def _merged(model: Any, batch: Batch) -> Losses:
    """Call the model's own forward, which returns the single-graph losses."""
    model.afan.wrapped = True
    try:
        return model.forward(*batch.args, **batch.kwargs, mode='loss')
    finally:
        model.afan.wrapped = False


def _with_auxiliary(model: Any, losses: Losses) -> Losses:
    """Make every auxiliary parameter part of the loss, with value 0, where processes average gradients.

    The auxiliary norms of the prefix, or of all the network while A-FAN is off, take no part in a step, and DDP waits
    for every parameter.
    """
    if is_distributed():
        idle: List[Tensor] = [p for n, p in model.named_parameters() if f'.{AUXILIARY}.' in n and p.requires_grad]
        key = next((k for k, v in losses.items() if 'loss' in k and isinstance(v, Tensor)), None)
        if idle and key is not None:
            losses[key] = losses[key] + zero_of(idle)
    return losses


# ---------------------------------------------------------------------- compilation
def refuse_compile(given: Any) -> None:
    """Raise the error of a compiled training step."""
    raise ValueError(f'compile must be False with A-FAN, got {given!r}: a compiled step fails where a graph is used '
                     f'twice, as by the attack, and was slower where it ran')


@_disable_dynamo  # what is traced does not see what the step has been replaced with
def check_not_compiled(module: nn.Module) -> None:
    """Raise if the runner has put a compiled step in the place of the module's own."""
    if hasattr(vars(module).get('train_step'), '_torchdynamo_orig_callable'):
        refuse_compile(True)
