"""What a training computes: the floating point operations of its convolutions and matrix products."""
from __future__ import annotations

import copy
import statistics
from typing import Any

import torch

from .arm import Arm, first_of
from .cost import num_steps_of_rhythm
from .data import read_batches


def count_training_flops(cfg: Any, num_batches: int = 2) -> float:
    """Count the floating point operations of a whole training, whatever the machine.

    The steps are run on the CPU, on the first batches of the data, with weights that stay as they are. They are
    counted by :class:`torch.utils.flop_counter.FlopCounterMode` (torch 2.1 or later): convolutions, matrix products and
    attention, forward and backward, so not the element-wise operations nor the operators of mmcv.

    Args:
        cfg: A whole config, of an A-FAN model or a stock one.
        num_batches: Number of batches whose mean counts as a step.

    Returns:
        Operations of a step times the number of steps in ``train_cfg``.

    Raises:
        ValueError: If there is not one batch, or ``train_cfg`` has no length.
    """
    from torch.utils.flop_counter import FlopCounterMode
    batches, batches_of_epoch = read_batches(cfg, num_batches)
    with_afan = 'afan' in cfg.model
    arm = Arm(copy.deepcopy(cfg), torch.device('cpu'), afan=with_afan)
    repeats = 1
    if with_afan:
        runtime = arm.model.afan
        repeats = num_steps_of_rhythm({name: tap for name, tap in runtime.config.taps.items() if tap.active},
                                      len(first_of(batches[0])), arm.model.afan.norms.least_samples)
        # The first step checks the model, with passes of its own; what reads a feature there may read it later, too.
        with FlopCounterMode(display=False):
            arm.train_step(batches[0])
    counts = []
    for batch in batches:
        for _ in range(repeats):
            with FlopCounterMode(display=False) as counter:
                arm.train_step(batch)
            counts.append(counter.get_total_flops())
    return statistics.fmean(counts) * num_steps(cfg.get('train_cfg') or {}, batches_of_epoch)


def num_steps(train_cfg: Any, batches_of_epoch: int) -> int:
    """Return the number of training iterations.

    Args:
        train_cfg: Field of the config.
        batches_of_epoch: Number of batches in an epoch.

    Raises:
        ValueError: If ``train_cfg`` has no length.

    Example:
        >>> num_steps(dict(by_epoch=True, max_epochs=3), 10), num_steps(dict(max_iters=40, by_epoch=False), 10)
        (30, 40)
    """
    if train_cfg.get('max_iters'):
        return int(train_cfg['max_iters'])
    if not train_cfg.get('max_epochs'):
        raise ValueError(f'train_cfg must have max_epochs or max_iters, got {dict(train_cfg)!r}')
    return int(train_cfg['max_epochs']) * batches_of_epoch
