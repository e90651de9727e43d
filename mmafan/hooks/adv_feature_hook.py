"""Schedule, logs, checks and checkpoint state of A-FAN; the algebra is the model's."""
from __future__ import annotations

from typing import Any, Dict, Optional, Union

from mmengine.hooks import Hook
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..models.model import AFANModelMixin, unwrap
from ..models.notices import notices, schedule_notices
from ..models.schedules import refuse_compile
from ..naming import SCOPE, afan_name
from ..registry import HOOKS
from ..validation import check_integer, fail
from .fit_tracker import FitTracker
from .log_line import prepare_log, summarize_losses
from .recipe_state import RECIPE, check_recipe, recipe_of
from .training_state import check_auxiliary, load_training_state, training_state

CHECKPOINT_KEY = SCOPE
MEASURED = ('relative_size', 'skipped_share', 'adversarial', 'adversarial_to_clean')
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
        log_terms: Whether lines on the screen list each adversarial loss; files and other backends always get them.

    Beside a model without A-FAN it stays idle, and says so.

    Raises:
        ValueError: If a number is out of range; before training, if there is another such hook, if the schedule leaves
            no iteration, if something has removed A-FAN's norms, if auxiliary norms are sharded, or if the config asks
            for ``torch.compile``.
    """
    priority = 'NORMAL'

    def __init__(self, begin: int = 0, end: Optional[int] = None, ramp: int = 0, by_epoch: bool = True,
                 interval: int = 50, fit_threshold: Optional[float] = None, log_terms: bool = False) -> None:
        for name, value, low in (('begin', begin, 0), ('end', end, 1), ('ramp', ramp, 0), ('interval', interval, 1)):
            if value is not None or name != 'end':
                check_integer(f'AdvFeatureHook.{name}', value, low)
        for name, flag in (('by_epoch', by_epoch), ('log_terms', log_terms)):
            if not isinstance(flag, bool):
                fail(f'AdvFeatureHook.{name}', flag, 'True or False')
        if end is not None and end <= begin:
            raise ValueError(f'AdvFeatureHook.end must be above begin={begin}, got {end}')
        self.begin, self.end, self.ramp, self.by_epoch, self.interval = begin, end, ramp, by_epoch, interval
        self.log_terms = log_terms
        self.fit = None if fit_threshold is None else FitTracker(fit_threshold)
        self._restored: Dict[str, Any] = {}
        self._passes_expected = False
        self._grad_scale: Any = 1.0
        self._epochs = True
        self._has_stepped, self._num_steps = False, 0
        self._last_passes: Dict[str, int] = {}

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
            runner.logger.warning(
                f"AdvFeatureHook needs an A-FAN model, got model.type='{name}', and stays idle: write "
                f"type='{SCOPE}.{afan_name(name)}' with afan=dict(taps=dict(...)), or remove the hook")
            return
        if sum(isinstance(hook, AdvFeatureHook) for hook in runner.hooks) > 1:
            raise ValueError('custom_hooks must have one AdvFeatureHook, got several, each with a schedule of its own')
        compile_cfg = getattr(runner, '_compile', None) or runner.cfg.get('compile')
        if compile_cfg is not None and compile_cfg is not False:  # an empty dict compiles, too
            refuse_compile(compile_cfg)
        check_auxiliary(model)
        prepare_log(runner, self.log_terms)
        self._epochs = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if self.by_epoch and not self._epochs and (self.begin or self.end is not None or self.ramp):
            name = type(runner.train_loop).__name__
            raise ValueError(f'AdvFeatureHook.by_epoch must be False with {name}, which has no epochs: '
                             f'give begin, end and ramp in iterations')
        length = runner.max_epochs if self.by_epoch and self._epochs else runner.max_iters
        if length is not None and self.begin >= length > 0:
            unit = 'epochs' if self.by_epoch and self._epochs else 'iterations'
            raise ValueError(f'AdvFeatureHook.begin must be below the {length} {unit} of training, got {self.begin}')
        for sentence in (*notices(model.afan.config), *schedule_notices(
                self, model.afan, length, runner.max_iters, getattr(runner.train_dataloader, 'batch_size', None))):
            model.afan.say_once(sentence)
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
        model = _afan_model(runner.model)
        if model is None:
            return
        runtime = model.afan
        by_epoch = self.by_epoch and self._epochs
        position = runner.iter / len(runner.train_dataloader) if by_epoch else runner.iter
        controls = runtime.controls
        controls.loss_scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        controls.strength_scale = self.scale_at(position) * (1.0 if self.fit is None else self.fit.factor)
        controls.iteration = runner.iter
        controls.measure = batch_idx == 0 or self.every_n_inner_iters(batch_idx, self.interval)
        runtime.meters.stepped = runtime.meters.frozen = False
        runtime.meters.diagnostics.clear()
        self._passes_expected = bool(runtime.taps)
        learns = self._passes_expected and runtime.learned is not None
        # What this iteration's gradients will be multiplied with; reading it waits for the device.
        self._grad_scale = controls.loss_scaler.get_scale() if learns and controls.loss_scaler is not None else 1.0

    # ------------------------------------------------------------------ after an iteration
    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: DataBatch = None,
                         outputs: Optional[dict] = None) -> None:
        """Prove that the passes ran, step the learned strengths, and log."""
        model = _afan_model(runner.model)
        if model is None:
            return
        runtime = model.afan
        if self._passes_expected and not runtime.meters.stepped and not self._has_stepped:
            raise RuntimeError(f'A-FAN was on at iteration {runner.iter}, but no adversarial pass ran: the training '
                               f'step of {type(runner.model).__name__} does not call loss or train_step of the model')
        self._has_stepped |= runtime.meters.stepped
        self._num_steps += runtime.meters.stepped
        if runtime.learned is not None and self._passes_expected and runner.optim_wrapper.should_update():
            runtime.learned.step(self._grad_scale)
        is_off = not runtime.taps or runtime.meters.frozen
        scale = 0.0 if is_off else runtime.controls.strength_scale
        runner.message_hub.update_scalar('train/afan_strength_scale', scale)
        self._clear_stale(runner, runtime, is_off, outputs or {})
        if self.fit is not None:
            self.fit.follow(outputs or {}, runtime, len(runner.train_dataloader) if self._epochs else 0)
        if runtime.controls.measure:
            scalars = {name: float(value) for name, value in runtime.meters.diagnostics.items()}
            scalars.update(runtime.meters.pop_idle_shares(self._num_steps))
            self._num_steps = 0
            if self._passes_expected:
                scalars.update(summarize_losses(outputs or {}, runtime.config))
            scalars.update({f'{t}_skipped_share': share for t, share in runtime.meters.pop_skipped_shares().items()})
            if runtime.learned is not None:
                scalars.update({f'{n}_learned': float(v.detach()) for n, v in runtime.learned.factors.items()})
            runner.message_hub.update_scalars({f'train/afan_{k}': v for k, v in scalars.items()})

    def _clear_stale(self, runner: Runner, runtime: Any, is_off: bool, outputs: Dict[str, Any]) -> None:
        """Take out of the log what it would repeat: the last values of a tap at which A-FAN is off."""
        for name in runtime.config.taps:
            if any(key.startswith(f'adv_{name}_') for key in outputs):
                self._last_passes[name] = runner.iter
            elif is_off or runner.iter - self._last_passes.get(name, -self.interval) >= self.interval:
                _forget(runner, f'train/adv_{name}_', *(f'train/afan_{name}_{kind}' for kind in MEASURED))
        if is_off and 'clean_loss' not in outputs:
            _forget(runner, 'train/clean_loss')

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


def _forget(runner: Runner, *prefixes: str) -> None:
    scalars = runner.message_hub.log_scalars
    for name in [name for name in scalars if name.startswith(prefixes)]:
        del scalars[name]


def _afan_model(model: Any) -> Any:
    inner = unwrap(model)
    return inner if isinstance(inner, AFANModelMixin) else None
