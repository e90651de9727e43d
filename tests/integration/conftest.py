"""What needs a machine of its own kind."""
from __future__ import annotations

import pytest
import torch


@pytest.fixture
def fsdp():
    """Skip where FSDP needs a GPU: it asks for a stream with a priority, which torch 2.1 does not have on a CPU."""
    try:
        torch.cpu.Stream(priority=-1)
    except TypeError:
        pytest.skip(f'FSDP does not run on a CPU with torch {torch.__version__}')
