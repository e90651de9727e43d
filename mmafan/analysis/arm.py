"""A config's model with and without A-FAN, ready to train steps that leave the weights as they are."""
from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from mmengine.dist import is_distributed
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.registry import MODELS
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from ..engine import AFANDistributedDataParallel
from ..models import AFANModelMixin
from ..naming import stock_name, type_name
from ..registry import scope_of_type


def first_of(data: Any) -> Any:
    """Return the inputs of a batch as a data loader gives it."""
    return data['inputs'] if isinstance(data, dict) else data[0]


def baseline_model(cfg: Any) -> Any:
    """Return the model config without A-FAN, and its ``afan`` field.

    Raises:
        ValueError: If the config's model is not ``AFAN<Stock>`` with ``afan=dict(...)``.
    """
    model = copy.deepcopy(cfg.model)
    kind = model.get('type')
    stock: Any = stock_name(type_name(kind))
    with contextlib.suppress(KeyError):
        # What is worked around for A-FAN is so for its baseline.
        made = MODELS.get(kind) if isinstance(kind, str) else kind
        if isinstance(made, type) and issubclass(made, AFANModelMixin) and (stock is None or made is kind):
            stock = next(base for base in made.__mro__ if not issubclass(base, AFANModelMixin)
                         and issubclass(base, BaseModel))
    if stock is None or 'afan' not in model:
        raise ValueError("model.type must be 'mmafan.AFAN<Stock>' with afan=dict(taps=...), such as "
                         f"'mmafan.AFANImageClassifier', got {kind!r}")
    afan = model.pop('afan')
    model['type'] = stock
    model.pop('_scope_', None)
    if 'data_preprocessor' in cfg:
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    return model, afan


class Arm:
    """A model with its optimizer, built as the runner builds them."""

    def __init__(self, cfg: Any, device: torch.device, afan: bool) -> None:
        from mmengine.optim import build_optim_wrapper
        from mmengine.registry import init_default_scope
        init_default_scope(cfg.get('default_scope') or scope_of_type(cfg.model.type) or 'mmengine')
        if afan or 'afan' in cfg.model:
            model, fields = baseline_model(cfg)
        else:
            model = copy.deepcopy(cfg.model)
            if 'data_preprocessor' in cfg:
                model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
        if afan:
            model.update(type=cfg.model.type, afan=fields)
        torch.manual_seed(0)
        # No init_weights: it may load a checkpoint, and the weights' values do not change the cost.
        self.model = MODELS.build(model).to(device)
        self.model.train()
        if afan:
            self.model.afan.controls.hooked = True
            self.model.afan.controls.measure = False  # the hook measures once in an interval
        self.optim_wrapper = build_optim_wrapper(self.model, copy.deepcopy(cfg.optim_wrapper))
        for group in self.optim_wrapper.param_groups:
            group['lr'] = 0.0
        self.exchanged = dict(bytes=0, reductions=0)
        self._wrapped = self._wrap(device) if is_distributed() else self.model

    def _wrap(self, device: torch.device) -> Any:
        stock = not hasattr(self.model, 'afan') or self.model.afan.config.schedule in ('single_graph', 'joined')
        wrapper = (MMDistributedDataParallel if stock else AFANDistributedDataParallel)(
            module=self.model, device_ids=None if device.type == 'cpu' else [device], broadcast_buffers=False)
        wrapper.register_comm_hook(None, lambda _, bucket: self._exchange(bucket))
        return wrapper

    def _exchange(self, bucket: Any) -> Any:
        self.exchanged['bytes'] += bucket.buffer().numel() * bucket.buffer().element_size()
        self.exchanged['reductions'] += 1
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]

    def train_step(self, data: Any) -> None:
        self._wrapped.train_step(data, self.optim_wrapper)
