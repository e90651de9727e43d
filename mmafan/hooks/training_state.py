"""What training with A-FAN needs beyond the stock state dict, and checkpoints hold beside it."""
from __future__ import annotations

from typing import Any, Dict, Sequence

import torch
from mmengine.dist import all_reduce
from torch import nn

from ..layers.afan_norm import AUXILIARY, PassAwareNorm


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


def check_auxiliary(model: nn.Module) -> None:
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
