"""The two-phase schedule: clean forward and backward, then every adversarial tail in turn, gradients accumulating."""
from __future__ import annotations

from typing import Any, Callable, Dict, Optional, Sequence

import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from ..passes import Batch, PassKind, running_pass
from ..passes.calls import Patches
from .losses import Losses, clean_losses, depends, detach_losses
from .runtime import AFANRuntime
from .tail import RunLoss

ANCHOR = 'afan_anchor'


def refuse_compile(given: Any) -> None:
    """Raise the error of a compiled training step."""
    raise ValueError(f'compile must be False with A-FAN, got {given!r}: a compiled step fails where a graph is used '
                     f'twice, as by the attack, and was slower where it ran')


@_disable_dynamo  # what is traced does not see what the step has been replaced with
def check_not_compiled(module: nn.Module) -> None:
    """Raise if the runner has put a compiled step in the place of the module's own."""
    if hasattr(vars(module).get('train_step'), '_torchdynamo_orig_callable'):
        refuse_compile(True)


class TwoPhase:
    """Methods of :class:`mmafan.models.mixin.AFANModelMixin` for the training step."""
    afan: AFANRuntime
    parse_losses: Callable[..., Any]
    _clean_pass: Callable[..., Any]
    _tails: Callable[..., Any]
    _adversarial_losses: Callable[..., Any]
    _own_copy: Callable[[Batch], Batch]

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> Dict[str, Tensor]:
        """Train one step in two phases: clean forward and backward, then every adversarial tail in turn.

        The clean graph is gone before the first tail runs. Where the stock class has a step of its own or A-FAN is off,
        the stock step runs (and finds the single-graph loss).

        Args:
            data: As for ``BaseModel.train_step``.
            optim_wrapper: As for ``BaseModel.train_step``.

        Returns:
            Log variables: total loss, weighted clean losses, ``adv_<tap>_<i>.<name>``.

        Raises:
            ValueError: If this step is compiled (``compile`` of the config).
        """
        check_not_compiled(self)  # type: ignore[arg-type]
        if not self.runs_two_phase(optim_wrapper):
            return super().train_step(data, optim_wrapper)  # type: ignore[misc]
        return self.train_two_phase(data, optim_wrapper)

    def train_two_phase(self, data: Any, optim_wrapper: OptimWrapper, wrapper: Optional[nn.Module] = None,
                        single_graph: bool = False) -> Dict[str, Tensor]:
        """Train one step in two phases.

        Args:
            data: As for ``BaseModel.train_step``.
            optim_wrapper: As for ``BaseModel.train_step``.
            wrapper: The ``DistributedDataParallel`` around the model. The last pass alone runs through its forward,
                so that processes exchange gradients once, while the last backward runs.
            single_graph: Run all passes through the forward of ``wrapper`` instead, and one backward.

        Returns:
            As of :meth:`train_step`.
        """
        runtime = self.afan
        with optim_wrapper.optim_context(self):
            data = self.data_preprocessor(data, True)  # type: ignore[attr-defined]
        batch = Batch((), data) if isinstance(data, dict) else Batch(tuple(data), {})
        scaler = getattr(optim_wrapper, 'loss_scaler', None)
        runtime.grad_scale = float(scaler.get_scale()) if scaler is not None else 1.0
        step = _Step(self, batch, optim_wrapper, wrapper)
        try:
            return step.run_as_one() if single_graph else step.run()
        except BaseException:
            optim_wrapper.zero_grad()  # half a step's gradients must not leak into the next
            raise

    def runs_two_phase(self, optim_wrapper: Any) -> bool:
        """Whether the next step runs in two phases.

        Raises:
            ValueError: If ``afan.schedule`` demands them where they are not possible.
        """
        if not self.afan.taps:
            return False
        schedule = self.afan.config.schedule
        owner, able = self._step_owner(), self.owns_step(optim_wrapper)
        if schedule == 'two_phase' and not able:
            reason = (f'{owner.__name__} has a train_step of its own' if owner is not BaseModel else
                      f'the optimizer wrapper is a {type(optim_wrapper).__name__}')
            raise ValueError(f"afan.schedule='two_phase' is not possible here ({reason}), use 'single_graph'")
        return able and schedule != 'single_graph'

    def owns_step(self, optim_wrapper: Any) -> bool:
        """Whether the training step may be made here: the stock model has none of its own."""
        return self._step_owner() is BaseModel and isinstance(optim_wrapper, OptimWrapper)

    def _step_owner(self) -> type:
        from .mixin import AFANModelMixin
        return next(c for c in type(self).__mro__ if 'train_step' in vars(c) and not issubclass(c, TwoPhase)
                    and c is not AFANModelMixin)


class _Step:
    """One step of a model on one batch."""

    def __init__(self, model: Any, batch: Batch, optim_wrapper: OptimWrapper, wrapper: Optional[nn.Module]) -> None:
        self.model, self.batch, self.optim_wrapper, self.wrapper = model, batch, optim_wrapper, wrapper
        self.is_last = False
        self.anchor: Optional[Tensor] = None

    def losses_of(self, batch: Batch) -> Losses:
        """Run the stock forward."""
        model = self.model
        batch = model._own_copy(batch)
        with model.afan.entered(model):
            if self.wrapper is not None and self.is_last:
                return self.through_wrapper(model.forward, batch)
            with self.optim_wrapper.optim_context(model):
                return model(*batch.args, **batch.kwargs, mode='loss')

    def through_wrapper(self, forward: Callable[..., Losses], batch: Batch) -> Losses:
        """Run a forward inside of the wrapper's, with a term of every parameter among its outputs.

        The last backward alone is exchanged, and the head takes no part in it: its gradient there is zero.
        """
        wrapper: Any = self.wrapper
        with_grad = torch.is_grad_enabled()

        def inner(*args: Any, **kwargs: Any) -> Losses:
            with torch.set_grad_enabled(with_grad):
                losses = forward(*args, **kwargs)
            return {**losses, ANCHOR: self.zero([p for p in self.model.parameters() if p.requires_grad])}

        patches = Patches()
        patches.set(self.model, 'forward', inner)
        try:
            # The head replays without gradients; DDP prepares for the backward only where they are on.
            with torch.enable_grad(), self.optim_wrapper.optim_context(wrapper):
                losses = wrapper(*batch.args, **batch.kwargs, mode='loss')
        finally:
            patches.undo()
        self.anchor = losses.pop(ANCHOR)
        return losses

    def run(self) -> Dict[str, Tensor]:
        """Train; return the log variables."""
        model, runtime = self.model, self.model.afan
        run: RunLoss = self.losses_of
        recording, losses = model._clean_pass(self.batch, run)
        tails = model._tails(recording, self.batch, run)
        gradients = {tail.name: tail.clean_gradients(losses) for tail in tails
                     if tail.tap.attacks_some and tail.tap.starts_clean}
        losses = clean_losses(losses, runtime.config.clean_weight)
        log = detach_losses(losses)
        remaining = sum(tail.tap.num_passes for tail in tails)
        self.backward(losses, last=remaining == 0 and self.wrapper is None)
        del losses
        recording.release_graph()
        for tail in tails:
            if tail.name not in gradients:
                gradients[tail.name] = tail.backward_gradients()
        passes = model._adversarial_losses(tails, gradients, self.begin_pass)
        self._remaining = remaining
        for adversarial in passes:
            log.update(detach_losses(adversarial))
            with running_pass(PassKind.ADVERSARIAL, runtime.config.batch_norm):  # for what is recomputed
                self.backward(adversarial, last=self.is_last)
            del adversarial
        if remaining == 0 and self.wrapper is not None:  # the clean pass was the only one
            self.backward(self.through_wrapper(lambda *_, **__: {}, self.batch), last=True)
        runtime.iteration += 1
        return model.parse_losses(log)[1]

    def run_as_one(self) -> Dict[str, Tensor]:
        """Train with the single-graph loss, through the wrapper."""
        self.model.afan.wrapped = True
        try:
            losses = self.through_wrapper(self.model.forward, self.batch)
        finally:
            self.model.afan.wrapped = False
        log = detach_losses(losses)
        self.backward(losses, last=True)
        return self.model.parse_losses(log)[1]

    def begin_pass(self) -> None:
        """Note whether the adversarial pass that begins is the last of the step."""
        self._remaining -= 1
        self.is_last = self._remaining == 0

    def backward(self, losses: Losses, last: bool) -> None:
        """Accumulate gradients; the last backward of a step lets the optimizer make its step."""
        total = self.model.parse_losses(losses)[0] if depends(losses) else None
        if last:
            if total is None or self.anchor is not None:
                anchor = self.anchor if self.anchor is not None else self.zero(
                    [p for p in self.model.parameters() if p.grad is not None][:1])
                total = anchor if total is None else total + anchor
            self.optim_wrapper.update_params(total)
        elif total is not None:
            # `backward` counts iterations for gradient accumulation; all passes of a step are one iteration.
            count = self.optim_wrapper._inner_count
            self.optim_wrapper.backward(self.optim_wrapper.scale_loss(total))
            self.optim_wrapper._inner_count = count

    @staticmethod
    def zero(parameters: Sequence[nn.Parameter]) -> Tensor:
        """Zero, with a gradient of zeros for each parameter."""
        return 0 * torch.stack([p.sum().float() for p in parameters]).sum()
