"""float16 with a loss scale on the CPU, as mmengine has it on a GPU."""
from __future__ import annotations

from contextlib import contextmanager

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper


class Float16OptimWrapper(AmpOptimWrapper):
    """``AmpOptimWrapper``, which mmengine refuses to build without an accelerator, with torch's scaler for the CPU."""

    def __init__(self, scale, dtype=torch.float16, **kwargs):
        OptimWrapper.__init__(self, **kwargs)
        self._scale_update_param = None
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=scale, growth_interval=1000)
        self.dtype = dtype

    @contextmanager
    def optim_context(self, model):
        with OptimWrapper.optim_context(self, model), torch.autocast('cpu', self.dtype):
            yield
