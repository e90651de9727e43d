"""Schedule, logs, checks and checkpoint state of A-FAN; the algebra is the model's."""
from __future__ import annotations

from typing import Any, Dict, Optional, Sequence, Union

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from ..layers.afan_norm import AUXILIARY, AuxiliaryNorm
from ..models.model import AFANModelMixin, unwrap
from ..models.schedules import refuse_compile
from ..naming import SCOPE, afan_name
from ..registry import HOOKS
from ..validation import check_integer, fail
from .fit_tracker import FitTracker
from .loss_ratio import loss_ratios
from .recipe_state import RECIPE, check_recipe, recipe_of

CHECKPOINT_KEY = SCOPE
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

    def __init__(self, begin: int = 0, end: Optional[int] = None, ramp: int = 0, by_epoch: bool = True,
                 interval: int = 50, fit_threshold: Optional[float] = None) -> None:
        for name, value, low in (('begin', begin, 0), ('end', end, 1), ('ramp', ramp, 0), ('interval', interval, 1)):
            if value is not None or name != 'end':
                check_integer(f'AdvFeatureHook.{name}', value, low)
        if not isinstance(by_epoch, bool):
            fail('AdvFeatureHook.by_epoch', by_epoch, 'True or False')
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
        if model is not None:
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
        if runner.iter > 0:  # weights alone begin a new training
            load_training_state(model, self._restored)
            if self.fit is not None:
                self.fit.resume(runner, self._restored)
        self._restored = {}

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
        controls = runtime.controls
        controls.loss_scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        controls.strength_scale = self.scale_at(position) * (1.0 if self.fit is None else self.fit.factor)
        controls.iteration = runner.iter
        controls.measure = batch_idx == 0 or self.every_n_inner_iters(batch_idx, self.interval)
        runtime.meters.stepped = False
        self._passes_expected = bool(runtime.taps)
        learns = self._passes_expected and runtime.learned is not None
        # What this iteration's gradients will be multiplied with; reading it waits for the device.
        self._grad_scale = controls.loss_scaler.get_scale() if learns and controls.loss_scaler is not None else 1.0

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
            self.fit.follow(outputs or {}, runtime, len(runner.train_dataloader) if self._epochs else 0)
        if runtime.controls.measure:
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
    learned = model.afan.learned
    return {**({'norms': norms} if norms else {}), **({'learned': learned.state_dict()} if learned is not None else {})}


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
    norms: Sequence[Any] = [module for module in model.modules() if isinstance(module, AuxiliaryNorm)]
    parts = [n for n in norms if sum(p.numel() for p in n.parameters()) != (2 * n.num_features if n.affine else 0)]
    flag = torch.tensor(int(bool(parts)))
    all_reduce(flag, op='max')  # a process may hold whole norms by chance
    if flag:
        raise ValueError("afan.batch_norm must not be 'separate' where an engine shards the parameters (FSDP, ZeRO "
                         "stage 3), got 'separate': use 'batch', which has no parameters of its own")


def _afan_model(model: Any) -> Any:
    inner = unwrap(model)
    return inner if isinstance(inner, AFANModelMixin) else None
