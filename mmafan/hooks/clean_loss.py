"""The clean loss of a step, from what the step logs."""
from __future__ import annotations

import math
import re
from typing import Any, Dict, Optional

import torch
from mmengine.dist import all_reduce


def clean_loss(outputs: Dict[str, Any], runtime: Any) -> Optional[float]:
    """Return the clean loss of a step as the stock model has it, on the mean over the processes.

    Args:
        outputs: Log variables of ``train_step``.
        runtime: Of the model.

    Returns:
        NaN where another process has none; None where this one has none.
    """
    # All clean losses of a step with A-FAN on have their weight, also where no tap takes part in it: a process divides
    # by the same weight as the others.
    taps = runtime.config.taps if runtime.is_on else {}
    adversarial = re.compile('|'.join(rf'adv_{name}_\d+\.' for name in taps) or '$^')
    clean = [value for name, value in outputs.items()
             if 'loss' in name and name != 'loss' and not adversarial.match(name)]
    weight = runtime.config.clean_weight if taps and clean and not runtime.meters.frozen else 1.0
    clean = clean or [outputs[name] for name in ('loss', ) if name in outputs]
    total = torch.as_tensor(sum(clean) / weight if clean else math.nan).detach().float().clone()
    all_reduce(total, op='mean')  # every process comes here in every step
    return float(total) if clean else None
