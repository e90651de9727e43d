"""Models of a user's own, on plain tensors, and their data."""
from __future__ import annotations

import torch
from mmengine.model import BaseModel
from torch import nn


class Net(BaseModel):
    """Layers ``a``, ``t`` (for the tap) and ``c``; a subclass has the forward."""

    def __init__(self):
        super().__init__()
        for name in 'atc':
            setattr(self, name, nn.Linear(6, 6))

    def run(self, x):
        return self.c(self.t(torch.tanh(self.a(x))))


def rows(number, count=4, columns=6):
    """Return the same random rows for a number."""
    return torch.randn(count, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(number))
