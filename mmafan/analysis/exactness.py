"""How exactly a device repeats itself: a CPU to the last digit; a GPU, whose threads add in any order, not always."""
from __future__ import annotations

import os
import random
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from .reference import Reference

# Of the largest entry of a parameter's gradient, or of a 10000th of the largest one anywhere: together 1e-7 of that,
# the precision of float32.
TOLERANCE, FLOOR = 1e-3, 1e-4
# Two runs are a small sample of how far runs lie apart.
SAFETY = 10.0


class Spread(Dict[str, float]):
    """How far two runs of the same stock step lie apart: the largest relative difference, by kind of value.

    The kinds are ``'loss'``, ``'buffer'`` and ``'gradient'``; what is missing is repeated to the last digit.
    """

    def allows(self, kind: str) -> float:
        """Return how far a value may lie from the stock model's."""
        return SAFETY * self.get(kind, 0.0)

    def add(self, kind: str, difference: float) -> None:
        """Note a difference."""
        self[kind] = max(self.get(kind, 0.0), difference)


def measure_spread(first: Tuple[Reference, nn.Module], second: Tuple[Reference, nn.Module]) -> Spread:
    """Compare two runs of one step, each given by what it returned and by the model that it left.

    Example:
        >>> run = Reference(dict(loss=torch.tensor(2.0)), dict(w=torch.tensor([1.0])), {}), nn.Identity()
        >>> measure_spread(run, (run[0]._replace(losses=dict(loss=torch.tensor(2.5))), nn.Identity()))
        {'loss': 0.25, 'buffer': 0.0, 'gradient': 0.0}
    """
    found, (left, left_model), (right, right_model) = Spread(loss=0.0, buffer=0.0, gradient=0.0), first, second
    buffers: Dict[str, Tensor] = dict(right_model.named_buffers())
    scale = largest(left.clean)
    for name, value in left.losses.items():
        found.add('loss', difference(right.losses[name], value))
    for name, value in left_model.named_buffers():
        if value.is_floating_point():
            found.add('buffer', difference(buffers[name], value))
    for name, value in left.clean.items():
        found.add('gradient', difference(right.clean[name], value, scale))
    return found


def largest(gradients: Dict[str, Tensor]) -> float:
    """Return the largest entry anywhere; 0 where there is none."""
    return max((float(g.abs().max()) for g in gradients.values() if g.numel()), default=0.0)


def difference(found: Tensor, right: Tensor, scale: float = 0.0) -> float:
    """Return the largest difference, as a fraction of the largest entry of what is right.

    Args:
        found: A value.
        right: The right one, of the same shape.
        scale: A 10000th of this is added to the largest entry.
    """
    if not right.numel() or torch.equal(found, right):
        return 0.0
    return float((found - right).abs().max()) / max(float(right.abs().max()) + FLOOR * scale, 1e-38)


def agrees(found: Tensor, right: Tensor, allowed: float = 0.0) -> bool:
    """Whether two values are the same to the last digit, NaN included, or as close as allowed."""
    own, value = found.detach().to(right.device), right.detach()
    if torch.equal(own, value):
        return True
    if not value.is_floating_point() or own.shape != value.shape:
        return False
    if not torch.equal(own.isfinite(), value.isfinite()):
        return False
    own, value = own.nan_to_num(), value.nan_to_num()
    return torch.equal(own, value) or difference(own, value) <= allowed


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters."""
    return next((parameter.device for parameter in model.parameters()), torch.device('cpu'))


def set_seed(seed: int) -> None:
    """Set all random streams."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def stream_states() -> List[Any]:
    """Return the states of all random streams, as values that can be compared."""
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]
    numpy: Any = np.random.get_state()
    return [random.getstate(), numpy[1].tolist(), numpy[2:], *(state.tolist() for state in states)]


def usable_device(name: str) -> str:
    """Return the name of a device, such as ``'cuda'``, that is there.

    Raises:
        ValueError: If it is none of torch's, or not there.
    """
    try:
        kind = torch.device(name).type
    except RuntimeError:
        kind = ''
    if kind != 'cpu' and (kind != 'cuda' or not torch.cuda.is_available()):
        raise ValueError(f"--device must be 'cpu', or 'cuda' where torch {torch.__version__} sees a GPU, got {name!r}")
    return name


@contextmanager
def exact_arithmetic(device: Any) -> Iterator[None]:
    """Inside, a GPU computes in full float32, and repeats itself wherever torch has an algorithm that does.

    Args:
        device: Whose settings; those of a CPU are left alone.
    """
    if torch.device(device).type != 'cuda':
        yield
        return
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # read when the library begins
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    kept = (cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled())
    cudnn.allow_tf32 = matmul.allow_tf32 = cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = kept[:3]
        torch.use_deterministic_algorithms(kept[3], warn_only=kept[4])
