"""A distributed wrapper that trains A-FAN models in two phases."""
from __future__ import annotations

from typing import Any, Dict

from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS as MMENGINE_MODEL_WRAPPERS
from torch import Tensor, nn

from ..models.model import AFANModelMixin
from ..models.schedules import check_not_compiled, owns_step, runs_two_phase, train_two_phase
from ..registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
@MMENGINE_MODEL_WRAPPERS.register_module(force=True)
class AFANDistributedDataParallel(MMDistributedDataParallel):
    """``MMDistributedDataParallel`` whose training step is two-phase where the model is an A-FAN model.

    All passes but the last run on the model itself, whose gradients accumulate in each process; the last one runs
    through this wrapper, and every parameter takes part in its backward, with a gradient of zeros where it is before
    the tap. So each bucket is reduced once in a step, overlapping with the last backward, without
    ``find_unused_parameters``. Other models, and steps with A-FAN switched off, train as under the stock wrapper. A
    parameter that the model never uses has a gradient of zeros too, where the stock wrapper leaves it without: weight
    decay and momentum reach it. With ``static_graph`` the first step is single-graph: torch learns from the first
    backward how often each gradient is added to, and would take that of the clean pass for it.

    Args:
        module: The model.
        **kwargs: Of ``MMDistributedDataParallel``.

    Raises:
        ValueError: With ``detect_anomalous_params`` (every parameter takes part); in the first step, with
            ``static_graph`` and gradient accumulation (torch cannot have both).

    Example:
        In a config: ``model_wrapper_cfg = dict(type='mmafan.AFANDistributedDataParallel', broadcast_buffers=False)``.
    """

    def __init__(self, module: nn.Module, **kwargs: Any) -> None:
        if kwargs.get('detect_anomalous_params'):
            raise ValueError('model_wrapper_cfg.detect_anomalous_params must be False for AFANDistributedDataParallel, '
                             'got True; MMDistributedDataParallel takes it')
        super().__init__(module=module, **kwargs)
        self._learns_graph = self._is_static = bool(kwargs.get('static_graph'))

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> Dict[str, Tensor]:
        """Train one step; see :func:`mmafan.models.schedules.train_two_phase`."""
        model = self.module
        if not isinstance(model, AFANModelMixin):
            return super().train_step(data, optim_wrapper)
        check_not_compiled(self)
        two_phase = runs_two_phase(model, optim_wrapper)
        # Every step of a static graph must use the same parameters: all, also while A-FAN is off.
        if two_phase or (self._is_static and owns_step(model, optim_wrapper)):
            learns_graph, self._learns_graph = self._learns_graph, False
            if learns_graph and not optim_wrapper.should_sync():
                raise ValueError('model_wrapper_cfg.static_graph must be False with optim_wrapper.accumulative_counts '
                                 'above 1, got True: torch learns the graph from a step that is exchanged')
            return train_two_phase(model, data, optim_wrapper, self, single_graph=learns_graph or not two_phase)
        return super().train_step(data, optim_wrapper)
