"""Schedule, logs, checks and checkpoint state of A-FAN; the algebra is the model's."""
from __future__ import annotations

import math
from typing import Any, Dict, Optional, Sequence, Union

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from ..layers.afan_norm import AUXILIARY, PassAwareNorm
from ..models.model import AFANModelMixin, unwrap
from ..models.schedules import refuse_compile
from ..naming import SCOPE, afan_name
from ..registry import HOOKS
from .clean_loss import clean_loss
from .fit_tracker import FitTracker
from .loss_ratio import loss_ratios
from .recipe_state import RECIPE, check_recipe, recipe_of

CHECKPOINT_KEY = SCOPE
FIT_WINDOW = 100  # iterations that the mean of the loss looks back on where a loop has no epochs
DataBatch = Optional[Union[dict, tuple, list]]


@HOOKS.register_module()
@MMENGINE_HOOKS.register_module(force=True)
class AdvFeatureHook(Hook):
    """Switch A-FAN on and off over the training, log what it does, and keep its training-only state.

    Args:
        begin: First epoch (or iteration) with adversarial passes.
        end: First epoch (or iteration) without them again; None: to the end of training.
        ramp: Number of epochs (or iterations) over which the strengths rise linearly from 0 to their full value,
            iteration by iteration.
        by_epoch: Whether ``begin``, ``end`` and ``ramp`` count epochs or iterations.
        interval: Iterations between two measurements in the log.
        fit_threshold: The strengths follow how well the training set is fitted: they are 0 while the clean loss (its
            running mean over an epoch) is above this share of the highest that it has been, and rise linearly from
            there to their full value at a loss of 0. In (0, 1]; None: they do not.

    Raises:
        ValueError: If a number is out of range; before training, if the model is not an A-FAN model, if the schedule
            leaves no iteration, if something has removed A-FAN's norms, if auxiliary norms are sharded, or if the
            config asks for ``torch.compile``.
    """
    priority = 'NORMAL'

    def __init__(self,
                 begin: int = 0,
                 end: Optional[int] = None,
                 ramp: int = 0,
                 by_epoch: bool = True,
                 interval: int = 50,
                 fit_threshold: Optional[float] = None) -> None:
        for name, value, low in (('begin', begin, 0), ('end', end, 1), ('ramp', ramp, 0), ('interval', interval, 1)):
            if value is None and name == 'end':
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f'AdvFeatureHook.{name} must be an integer of at least {low}, got {value!r}')
        if not isinstance(by_epoch, bool):
            raise ValueError(f'AdvFeatureHook.by_epoch must be True or False, got {by_epoch!r}')
        if end is not None and end <= begin:
            raise ValueError(f'AdvFeatureHook.end must be above begin={begin}, got {end}')
        self.begin, self.end, self.ramp, self.by_epoch, self.interval = begin, end, ramp, by_epoch, interval
        self.fit = None if fit_threshold is None else FitTracker(fit_threshold)
        self._restored: Dict[str, Any] = {}
        self._passes_expected = False
        self._grad_scale: Any = 1.0
        self._epochs = True

    # ------------------------------------------------------------------ before training
    def before_run(self, runner: Runner) -> None:
        """Take charge of the model and repair what SyncBN conversion did to its norms."""
        model = _afan_model(runner.model)
        if model is None:
            return
        model.afan.controls.hooked = True
        model.afan.norms.restore(model)

    def before_train(self, runner: Runner) -> None:
        """Check that there is something to schedule, and restore what a resumed checkpoint holds."""
        model = _afan_model(runner.model)
        if model is None:
            name = type(unwrap(runner.model)).__name__
            raise ValueError(f"AdvFeatureHook needs an A-FAN model, got model.type='{name}'; write "
                             f"type='{SCOPE}.{afan_name(name)}' with afan=dict(taps=dict(...)), or remove the hook")
        compile_cfg = getattr(runner, '_compile', None) or runner.cfg.get('compile')
        if compile_cfg is not None and compile_cfg is not False:  # an empty dict compiles, too
            refuse_compile(compile_cfg)
        _check_auxiliary(model)
        self._epochs = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if self.by_epoch and not self._epochs and (self.begin or self.end is not None or self.ramp):
            name = type(runner.train_loop).__name__
            raise ValueError(f'AdvFeatureHook.by_epoch must be False with {name}, which has no epochs: '
                             f'give begin, end and ramp in iterations')
        length = runner.max_epochs if self.by_epoch and self._epochs else runner.max_iters
        if length is not None and self.begin >= length > 0:
            unit = 'epochs' if self.by_epoch and self._epochs else 'iterations'
            raise ValueError(f'AdvFeatureHook.begin must be below the {length} {unit} of training, got {self.begin}')
        if self._restored:
            load_training_state(model, self._restored)
        if self.fit is not None and runner.iter > 0:  # weights alone begin a new training, whose losses are others
            self._resume_fit(runner, self.fit)
        self._restored = {}

    def _resume_fit(self, runner: Runner, fit: FitTracker) -> None:
        if 'fit' in self._restored:
            fit.load_state_dict(self._restored['fit'])
        else:
            runner.logger.warning(
                f'the checkpoint does not hold how well the training set was fitted: with AdvFeatureHook.fit_threshold='
                f'{fit.threshold} A-FAN is off until the clean loss is below that share of what it is now')

    # ------------------------------------------------------------------ schedule
    def scale_at(self, position: float) -> float:
        """Return the factor on the strengths at an epoch or iteration (fractions of an epoch count).

        Example:
            >>> hook = AdvFeatureHook(begin=2, end=10, ramp=4)
            >>> [hook.scale_at(p) for p in (1.9, 2.0, 4.0, 6.0, 9.9, 10.0)]
            [0.0, 0.0, 0.5, 1.0, 1.0, 0.0]
        """
        if position < self.begin or (self.end is not None and position >= self.end):
            return 0.0
        return min(1.0, (position - self.begin) / self.ramp) if self.ramp else 1.0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: DataBatch = None) -> None:
        """Set this iteration's strength."""
        runtime = unwrap(runner.model).afan
        by_epoch = self.by_epoch and self._epochs
        position = runner.iter / len(runner.train_dataloader) if by_epoch else runner.iter
        controls, meters = runtime.controls, runtime.meters
        controls.loss_scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        controls.strength_scale = self.scale_at(position) * (1.0 if self.fit is None else self.fit.factor)
        controls.iteration = runner.iter
        controls.measure = self._logs_at(batch_idx)
        meters.num_passes, meters.stepped = 0, False
        self._passes_expected = bool(runtime.taps)
        self._grad_scale = self._read_scale(runtime) if self._passes_expected else 1.0

    @staticmethod
    def _read_scale(runtime: Any) -> Any:
        """Read what this iteration's gradients will be multiplied with, only where something needs it."""
        scaler = runtime.controls.loss_scaler
        return scaler.get_scale() if runtime.learned is not None and scaler is not None else 1.0

    def _logs_at(self, batch_idx: int) -> bool:
        return batch_idx == 0 or self.every_n_inner_iters(batch_idx, self.interval)

    # ------------------------------------------------------------------ after an iteration
    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: DataBatch = None,
                         outputs: Optional[dict] = None) -> None:
        """Prove that the passes ran, step the learned strengths, and log."""
        runtime = unwrap(runner.model).afan
        if self._passes_expected and not runtime.meters.stepped:
            raise RuntimeError(f'A-FAN was on at iteration {runner.iter}, but no adversarial pass ran: the training '
                               f'step of {type(runner.model).__name__} does not call loss or train_step of the model')
        if runtime.learned is not None and self._passes_expected and runner.optim_wrapper.should_update():
            runtime.learned.step(self._grad_scale)
        runner.message_hub.update_scalar('train/afan_strength_scale', runtime.controls.strength_scale)
        if self.fit is not None:
            window = len(runner.train_dataloader) if self._epochs else FIT_WINDOW
            loss = clean_loss(outputs or {}, runtime)
            if loss is None and not self.fit.count:
                raise ValueError(f'AdvFeatureHook.fit_threshold must be None where train_step logs no loss, got '
                                 f'{self.fit.threshold}: the model logs {sorted(outputs or {})}')
            self.fit.update(math.nan if loss is None else loss, window)
        if self._logs_at(batch_idx):
            measured = runtime.meters.diagnostics if runtime.is_on else {}
            scalars = {name: float(value) for name, value in measured.items()}
            if self._passes_expected:
                ratios = loss_ratios(outputs or {}, runtime.config)
                scalars.update({f'{tap}_adversarial_to_clean': ratio for tap, ratio in ratios.items()})
            scalars.update({f'{t}_skipped_share': share for t, share in runtime.meters.pop_skipped_shares().items()})
            if runtime.learned is not None:
                scalars.update({f'{n}_learned': float(v.detach()) for n, v in runtime.learned.factors.items()})
            runner.message_hub.update_scalars({f'train/afan_{k}': v for k, v in scalars.items()})

    # ------------------------------------------------------------------ checkpoints
    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the training-only state beside the stock state dict."""
        model = _afan_model(runner.model)
        if model is not None:
            state = dict(training_state(model), **{RECIPE: recipe_of(model)})
            if self.fit is not None:
                state['fit'] = self.fit.state_dict()
            checkpoint[CHECKPOINT_KEY] = state

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember the training-only state, and tell a changed recipe; the weights are loaded after this call.

        Raises:
            ValueError: If a training is resumed whose optimizer has other parameters than the checkpoint's.
        """
        self._restored = checkpoint.get(CHECKPOINT_KEY, {})
        model = _afan_model(runner.model)
        if model is not None and getattr(runner, '_resume', False):
            change = check_recipe(model, runner.optim_wrapper, self._restored, checkpoint)
            if change is not None:
                runner.logger.warning(change)


def training_state(model: Any) -> Dict[str, Any]:
    """Return what training needs beyond the stock state dict: auxiliary norms and learned strengths; often empty."""
    norms = {name: value.detach().cpu() for name, value in _auxiliary_tensors(model).items()}
    state: Dict[str, Any] = {'norms': norms} if norms else {}
    runtime = model.afan
    if runtime.learned is not None:
        state['learned'] = runtime.learned.state_dict()
    return state


def load_training_state(model: Any, state: Dict[str, Any]) -> None:
    """Restore what :func:`training_state` gave; entries that no longer fit the model are left out."""
    with torch.no_grad():
        for name, target in _auxiliary_tensors(model).items():
            value = state.get('norms', {}).get(name)
            if value is not None and value.shape == target.shape:
                target.copy_(value)
    if model.afan.learned is not None and 'learned' in state:
        model.afan.learned.load_state_dict(state['learned'])


def _auxiliary_tensors(model: nn.Module) -> Dict[str, torch.Tensor]:
    named: Sequence = [*model.named_parameters(), *model.named_buffers()]
    return {name: value for name, value in named if f'.{AUXILIARY}.' in name}


def _check_auxiliary(model: nn.Module) -> None:
    """Auxiliary norms must be whole: a part of one cannot be saved beside the stock state dict."""
    sharded = False
    for module in model.modules():
        auxiliary = getattr(module, AUXILIARY, None) if isinstance(module, PassAwareNorm) else None
        if auxiliary is not None:
            whole = 2 * auxiliary.num_features if auxiliary.affine else 0
            sharded = sharded or sum(p.numel() for p in auxiliary.parameters()) != whole
    flag = torch.tensor(int(sharded))
    all_reduce(flag, op='max')  # a process may hold whole norms by chance
    if flag:
        raise ValueError("afan.batch_norm must not be 'separate' where an engine shards the parameters (FSDP, ZeRO "
                         "stage 3), got 'separate': use 'batch', which has no parameters of its own")


def _afan_model(model: Any) -> Any:
    inner = unwrap(model)
    return inner if isinstance(inner, AFANModelMixin) else None
