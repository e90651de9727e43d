"""The mixin that turns a stock model into its A-FAN version: clean pass, attack, adversarial passes, merged losses."""
from __future__ import annotations

import functools
import logging
from typing import Any, Callable, Dict, Optional, Sequence

import torch
from mmengine.dist import is_distributed
from mmengine.logging import print_log
from torch import Tensor

from ..config import AFANConfig
from ..layers import PassAwareNorm, adopt_norms
from ..layers.afan_norm import sync_auxiliary
from ..passes import Batch, Recording
from ..passes.calls import WatchedCall
from ..passes.tap import INPUTS
from ..registry import codebase_scope
from .adversarial import AdversarialPasses
from .checks import check_first_pass, check_model
from .losses import Losses, clean_losses
from .runtime import AFANRuntime
from .tail import RunLoss
from .two_phase import TwoPhase


class AFANModelMixin(TwoPhase, AdversarialPasses):
    """Put in front of a stock model class (see :func:`mmafan.models.factory.make_afan_class`).

    Args:
        *args: Of the stock model.
        afan: Fields of :class:`mmafan.config.AFANConfig`.
        **kwargs: Of the stock model.

    Raises:
        ValueError: If ``afan`` is missing or wrong: one sentence with field, value and what would be right.
    """

    def __init__(self, *args: Any, afan: Optional[Dict[str, Any]] = None, **kwargs: Any) -> None:
        if '_afan_building' in self.__dict__:
            raise TypeError(f'{type(self).__name__} must call super().__init__() without arguments of super: after '
                            f'@afan_model its own name means the decorated class')
        self.__dict__['_afan_building'] = True
        if afan is None:
            raise ValueError(f"model.afan is missing: {type(self).__name__} needs afan=dict(taps=dict(...)); for the "
                             f"stock model write type='{type(self).__name__[4:]}'")
        config = AFANConfig.from_dict(afan)
        with codebase_scope(type(self)):
            super().__init__(*args, **kwargs)
        del self.__dict__['_afan_building']
        config = check_model(self, config)  # type: ignore[arg-type]
        self.afan = AFANRuntime(config)
        self.afan.num_norms = adopt_norms(self, config.batch_norm)  # type: ignore[arg-type]
        self.afan.norm_policies = {name: module.policy for name, module in self.named_modules()  # type: ignore
                                   if isinstance(module, PassAwareNorm) and module.policy is not None}

    def init_weights(self) -> None:
        """Initialise as the stock model does; auxiliary norms start as copies of the initialised ones."""
        first = not self.is_init  # type: ignore[attr-defined]
        super().init_weights()  # type: ignore[misc]
        if first:
            sync_auxiliary(self)  # type: ignore[arg-type]

    def restore_norms(self) -> None:
        """Repair what a conversion to or from SyncBN did to the norms.

        Raises:
            ValueError: If some have been replaced by layers that are no batch norm.
        """
        before, policy = self.afan.num_norms, self.afan.config.batch_norm
        after = adopt_norms(self, policy)  # type: ignore[arg-type]
        if after < before:
            raise ValueError(f'afan.batch_norm={policy!r} needs the {before} batch norms the model was built with, '
                             f'but {before - after} of them have been replaced by layers that are none; '
                             f"remove that conversion, or use afan.batch_norm='shared'")
        for name, module in self.named_modules():  # type: ignore[attr-defined]
            if name in self.afan.norm_policies:
                module.policy = self.afan.norm_policies[name]

    # ------------------------------------------------------------------ single-graph
    def _loss_with_afan(self, stock_loss: Callable[..., Losses], args: Any, kwargs: Any) -> Losses:
        """Return the stock losses, or clean and adversarial ones as one sum where A-FAN is on and nobody else is."""
        runtime = self.afan
        training = self.training and torch.is_grad_enabled()  # type: ignore[attr-defined]
        if runtime.inside or not training:
            return stock_loss(*args, **kwargs)
        if not runtime.taps and runtime.checked:
            return self._anchored(stock_loss(*args, **kwargs))

        def run(batch: Batch) -> Losses:
            batch = self._own_copy(batch)
            with runtime.entered(self):  # type: ignore[arg-type]
                return stock_loss(*batch.args, **batch.kwargs)

        batch = Batch(args, kwargs)
        recording, losses = self._clean_pass(batch, run)
        if not runtime.taps:
            return self._anchored(losses)
        foreign = is_distributed() and not runtime.wrapped
        if foreign and runtime.config.schedule == 'two_phase':
            raise ValueError("afan.schedule='two_phase' is not possible under the distributed wrapper of the model, "
                             "which owns the backward; use 'auto', or model_wrapper_cfg=dict("
                             "type='mmafan.AFANDistributedDataParallel')")
        if foreign and runtime.config.schedule == 'auto':
            _say_single_graph()
        merged = clean_losses(losses, runtime.config.clean_weight)
        tails = self._tails(recording, batch, run)
        gradients = {tail.name: tail.clean_gradients(losses) for tail in tails if tail.tap.starts_clean}
        for adversarial in self._adversarial_losses(tails, gradients):
            merged.update(adversarial)
        runtime.iteration += 1
        return self._anchored(merged)

    def _anchored(self, losses: Losses) -> Losses:
        """Make every auxiliary parameter part of the loss, with value 0, where processes average gradients.

        The auxiliary norms of the head, or of all the network while A-FAN is off, take no part in a step, and DDP waits
        for every parameter.
        """
        if is_distributed():
            idle = [p for n, p in self.named_parameters()  # type: ignore[attr-defined]
                    if '.auxiliary.' in n and p.requires_grad]
            key = next((k for k, v in losses.items() if 'loss' in k and isinstance(v, Tensor)), None)
            if idle and key is not None:
                losses[key] = losses[key] + 0 * sum(p.sum() for p in idle)
        return losses

    # ------------------------------------------------------------------ common to both
    def _watched_calls(self) -> Sequence[WatchedCall]:
        """Methods of the codebase that are recorded and replayed as modules are."""
        return ()

    def _own_copy(self, batch: Batch) -> Batch:
        """Return what a pass may change; some stock code changes its data samples."""
        return batch

    def _lacks_targets(self, batch: Batch) -> bool:
        """Whether losses may be missing or constant, because a sample has nothing to learn from."""
        return False

    def _clean_pass(self, batch: Batch, run: RunLoss) -> Any:
        """Run the clean forward under a recording; the first one also proves that the taps work."""
        runtime = self.afan
        if runtime.config.learn_strengths is not None and not runtime.hooked:
            raise ValueError("afan.learn_strengths needs custom_hooks=[dict(type='mmafan.AdvFeatureHook')], which "
                             'updates the learned strengths')
        if not runtime.checked and not runtime.num_waits:
            self.restore_norms()
            if runtime.config.batch_norm == 'separate' and not runtime.hooked:
                print_log("afan.batch_norm='separate' without AdvFeatureHook: the auxiliary norms will not be in the "
                          'checkpoints, and a resumed run starts them anew', logger='current', level=logging.WARNING)
        taps = runtime.taps if runtime.checked else runtime.config.taps
        recording = Recording(self, taps, batch.size, runtime.config.replay,  # type: ignore[arg-type]
                              runtime.changed_in_place, self._watched_calls(), runtime.idle_calls,
                              runtime.unused, runtime.changed_state)
        with recording:
            if any(tap.module == INPUTS for tap in taps.values()):
                batch = batch.with_inputs(recording.record_inputs(batch.inputs))
            losses = run(batch)
        if not runtime.checked:
            runtime.checked = check_first_pass(self, recording, batch, run, losses)
        if runtime.checked and runtime.idle_calls is None:
            runtime.changed_in_place = recording.changed
            runtime.changed_state, runtime.idle_calls = recording.changed_state, recording.idle
            runtime.unused = recording.unused
        return recording, losses


@functools.lru_cache(maxsize=None)
def _say_single_graph() -> None:
    print_log('A-FAN runs with the single-graph schedule, because the distributed wrapper of the model calls its '
              'forward and owns the backward: same gradients, more memory than two-phase', logger='current')
