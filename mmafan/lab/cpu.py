"""Training without CUDA: the places where mmengine and torch take a GPU for granted.

Nothing here runs where CUDA, or another accelerator that mmengine knows, is at hand.
"""
from __future__ import annotations

import logging
import os
import subprocess
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

from ..naming import type_name

SYNC_NORMS = ('SyncBN', 'MMSyncBN', 'SyncBatchNorm')


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(AmpOptimWrapper):
    """``AmpOptimWrapper`` for the CPU: bfloat16, which needs no loss scale.

    ``AmpOptimWrapper`` refuses to be built without an accelerator, although all it does then works on the CPU too.

    Args:
        loss_scale: Accepted so that a config needs no change; bfloat16 has the range of float32.
        dtype: ``'bfloat16'`` or None; float16 autocast does not exist on the CPU.
        **kwargs: Arguments of ``OptimWrapper``.

    Raises:
        ValueError: If another ``dtype`` is asked for.
    """

    def __init__(self, loss_scale: Any = 'dynamic', dtype: Any = None, **kwargs: Any) -> None:
        if dtype not in (None, 'bfloat16', torch.bfloat16):
            raise ValueError(f"optim_wrapper.dtype must be 'bfloat16' or None on a CPU, got {dtype!r}")
        kwargs.pop('use_fsdp', None)
        OptimWrapper.__init__(self, **kwargs)
        self._scale_update_param = None
        self.loss_scaler = getattr(torch.amp, 'GradScaler', torch.cuda.amp.GradScaler)(enabled=False)
        self.cast_dtype = torch.bfloat16


def adapt_to_cpu(cfg: Config) -> None:
    """Change a config, in place, so that it trains on a machine without an accelerator.

    - AMP becomes :class:`CPUAmpOptimWrapper`.
    - The process group is started here, with gloo: mmengine's ``init_dist`` calls ``torch.cuda.set_device``, and
      leaves a group that exists alone.
    - SyncBN becomes BN in several processes: ``DistributedDataParallel`` refuses it for a module on the CPU.
    - ``FSDPStrategy`` gets ``device_id='cpu'``, and takes a whole state dict without copying it to the CPU: torch would
      copy nothing there, and then free what it has not copied.
    - ``device_ids`` becomes None: ``Runner.wrap_model`` passes ``[LOCAL_RANK]``, which ``DistributedDataParallel``
      refuses for a module on the CPU; a value in ``model_wrapper_cfg`` goes before that default.
    """
    if get_device() != 'cpu':
        return
    if cfg.get('launcher', 'none') != 'none' and not is_distributed():
        _start_gloo(cfg)
        wrapper = cfg.get('model_wrapper_cfg') or dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False))
        cfg.model_wrapper_cfg = dict(wrapper, device_ids=None)
        if _unsynchronise(cfg.model) + bool(cfg.pop('sync_bn', None)):
            print_log('no CUDA device: SyncBN becomes BN, whose statistics are those of each process', 'current',
                      logging.WARNING)
    if type_name((cfg.get('strategy') or {}).get('type')) == 'FSDPStrategy':
        cfg.strategy.model_wrapper = dict(cfg.strategy.get('model_wrapper') or {}, device_id='cpu')
        kept = cfg.strategy.get('state_dict_cfg')
        if kept == 'full' or not isinstance(kept, str) and (kept or {}).get('state_dict_type') == 'FULL_STATE_DICT':
            cfg.strategy.state_dict_cfg = dict(
                state_dict_type='FULL_STATE_DICT',
                state_dict_config=dict(type='FullStateDictConfig', rank0_only=True),
                optim_state_dict_config=dict(type='FullOptimStateDictConfig', rank0_only=True))
    if type_name((cfg.get('optim_wrapper') or {}).get('type')) == 'AmpOptimWrapper':
        cfg.optim_wrapper.type = 'mmengine.CPUAmpOptimWrapper'
        print_log('no CUDA device: mixed precision uses bfloat16 (float16 autocast is for CUDA only)', 'current')


def _unsynchronise(value: Any) -> int:
    """Turn every ``norm_cfg`` of SyncBN in a config into BN, in place; return how many there were."""
    count = 0
    if isinstance(value, dict):
        if type_name(value.get('type')) in SYNC_NORMS:
            value['type'] = 'BN'
            count = 1
        return count + sum(_unsynchronise(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_unsynchronise(item) for item in value)
    return 0


def _start_gloo(cfg: Config) -> None:
    env = os.environ
    if cfg.launcher == 'slurm':
        env.update(RANK=env['SLURM_PROCID'], WORLD_SIZE=env['SLURM_NTASKS'], LOCAL_RANK=env['SLURM_LOCALID'])
        if 'MASTER_ADDR' not in env:
            nodes = subprocess.run(['scontrol', 'show', 'hostname', env['SLURM_NODELIST']],
                                   check=True, stdout=subprocess.PIPE, universal_newlines=True)
            env['MASTER_ADDR'] = nodes.stdout.split()[0]
        env.setdefault('MASTER_PORT', '29500')
    elif cfg.launcher == 'mpi':
        env.update(RANK=env['OMPI_COMM_WORLD_RANK'], WORLD_SIZE=env['OMPI_COMM_WORLD_SIZE'],
                   LOCAL_RANK=env['OMPI_COMM_WORLD_LOCAL_RANK'])
        env.setdefault('MASTER_PORT', '29500')
    configured = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('backend', 'nccl')
    torch.distributed.init_process_group('gloo')
    if configured != 'gloo':
        if 'env_cfg' not in cfg:
            cfg.env_cfg = {}
        cfg.env_cfg.setdefault('dist_cfg', {})['backend'] = 'gloo'
        print_log(f'no CUDA device: the processes talk through gloo instead of {configured}', 'current')
