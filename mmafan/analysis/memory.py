"""Memory of a piece of work: what it allocates at most, and what a model holds between steps."""
from __future__ import annotations

import gc
import os
import sys
from contextlib import contextmanager
from typing import Any, Callable, Iterator, List

import torch
from torch import Tensor, nn


def peak_memory(function: Callable[[], Any], device: Any = 'cpu') -> int:
    """Run ``function`` and return how many bytes its own allocations come to at the most.

    On the CPU every allocation and every release of torch's allocator during the call is taken
    from torch's profiler and summed up in order: what existed before does not count, nor does
    scratch memory that a kernel library (oneDNN, MKL) gets elsewhere. With CUDA it is
    ``torch.cuda.max_memory_allocated`` less what was allocated before.

    Args:
        function: Called once, without arguments.
        device: Where its tensors are.

    Example:
        >>> peak_memory(lambda: torch.zeros(1000).abs_())
        4000
    """
    device = torch.device(device)
    if device.type == 'cuda':
        gc.collect()  # garbage of earlier work, let go while the function runs, would be taken for room of its own
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != 'cpu':
        raise ValueError(f"device must be a 'cpu' or 'cuda' device, got {str(device)!r}")
    with _without_profiler_chatter():
        with torch.autograd.profiler.profile(profile_memory=True) as profiler:
            function()
    events = [e for e in profiler.kineto_results.events() if e.name() == '[memory]']
    return peak_of([e.nbytes() for e in sorted(events, key=_start_of)])


def peak_of(changes: List[int]) -> int:
    """Return the largest partial sum, at least 0.

    Example:
        >>> peak_of([1000, 500, -1000, 300])
        1500
    """
    peak = total = 0
    for change in changes:
        total += change
        peak = max(peak, total)
    return peak


def resident_bytes(model: nn.Module, optimizer: Any = None) -> int:
    """Return the bytes of parameters, buffers, gradients and optimizer state, shared storage once.

    Example:
        >>> resident_bytes(nn.Linear(3, 2))
        32
    """
    tensors: List[Tensor] = [*model.parameters(), *model.buffers()]
    tensors += [p.grad for p in model.parameters() if p.grad is not None]
    if optimizer is not None:
        for state in optimizer.state.values():
            tensors += [v for v in state.values() if isinstance(v, Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def _start_of(event: Any) -> int:
    return event.start_ns() if hasattr(event, 'start_ns') else event.start_us()  # torch < 2.3: us


@contextmanager
def _without_profiler_chatter() -> Iterator[None]:
    """Keep the profiler's C++ notes (no GPU found, memory of unknown size) from the terminal."""
    sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # no stderr to keep clean
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
