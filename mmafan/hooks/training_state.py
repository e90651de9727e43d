"""What training with A-FAN needs beyond the stock state dict, and checkpoints hold beside it."""
from __future__ import annotations

from typing import Any, Dict, Sequence

import torch
from mmengine.dist import all_reduce
from torch import nn

from ..layers.afan_norm import AUXILIARY, AuxiliaryNorm


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


def check_auxiliary(model: nn.Module) -> None:
    """Auxiliary norms must be whole: a part of one cannot be saved beside the stock state dict."""
    norms: Sequence[Any] = [module for module in model.modules() if isinstance(module, AuxiliaryNorm)]
    parts = [n for n in norms if sum(p.numel() for p in n.parameters()) != (2 * n.num_features if n.affine else 0)]
    flag = torch.tensor(int(bool(parts)))
    all_reduce(flag, op='max')  # a process may hold whole norms by chance
    if flag:
        raise ValueError("afan.batch_norm must not be 'separate' where an engine shards the parameters (FSDP, ZeRO "
                         "stage 3), got 'separate': use 'batch', which has no parameters of its own")
