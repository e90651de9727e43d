"""One look into a training step of a stock model: which modules can be a tap, and what comes after each."""
from __future__ import annotations

import functools
import statistics
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Tuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass
class Candidate:
    """A module that can be a tap.

    Attributes:
        path: Its dotted name.
        shapes: Of the features it returns, in the first call of a step.
        calls: Number of its calls in a step.
        share: Median share of the step between its first return and the return of the last of its gradients (tau).
        batch_norms: Number of batch norms that run after it.
    """
    path: str
    shapes: List[Tuple[int, ...]]
    calls: int = 0
    share: float = 0.0
    batch_norms: int = 0
    shares: List[float] = field(default_factory=list, repr=False)


def features_in(value: Any) -> List[Tensor]:
    """List the floating tensors of an output, in order; what else it holds is left out."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() and value.dim() > 1 else []
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in features_in(item)]
    return []


class Look:
    """Hooks on every module of a model for one step.

    Attributes:
        order: Paths of the modules in the order of their first return.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.order: List[str] = []
        self.features: Dict[str, List[Tuple[int, ...]]] = {}
        self.calls: Dict[str, int] = {}
        self.left: Dict[str, float] = {}
        self.back: Dict[str, float] = {}
        self.whole = 0.0

    def run(self, step: Callable[[], Any]) -> 'Look':
        """Run a step and note what happens."""
        skipped = set(map(id, getattr(self.model, 'data_preprocessor', nn.Module()).modules()))
        handles = [module.register_forward_hook(functools.partial(self._leave, path))
                   for path, module in self.model.named_modules()
                   if path and id(module) not in skipped]
        begin = time.perf_counter()
        try:
            step()
        finally:
            for handle in handles:
                handle.remove()
        self.whole = time.perf_counter() - begin
        return self

    def _leave(self, path: str, module: nn.Module, _: Any, output: Any) -> None:
        self.calls[path] = self.calls.get(path, 0) + 1
        if path in self.left:
            return
        self.order.append(path)
        self.left[path] = time.perf_counter()
        features = [tensor for tensor in features_in(output) if tensor.requires_grad]
        self.features[path] = [tuple(tensor.shape) for tensor in features]
        for tensor in features:
            tensor.register_hook(functools.partial(self._come_back, path))

    def _come_back(self, path: str, _: Any) -> None:
        self.back[path] = time.perf_counter()


def find_candidates(model: nn.Module, step: Callable[[int], Any], repeats: int = 3) -> List[Candidate]:
    """Find every module whose output is a feature that a gradient comes to, in the order in which they run.

    Args:
        model: In training mode, with all its parameters as they will be trained.
        step: Runs forward and backward of one batch, given its number.
        repeats: Steps whose median is the share; one more runs before them.
    """
    looks = [Look(model).run(functools.partial(step, number)) for number in range(repeats + 1)]
    first = looks[0]
    norms = {path for path, module in model.named_modules() if isinstance(module, _BatchNorm)}
    found = []
    for place, path in enumerate(first.order):
        if first.features[path] and path in first.back:
            shares = [(look.back[path] - look.left[path]) / look.whole
                      for look in looks[1:] or looks if path in look.back]
            after = sum(other in norms for other in first.order[place + 1:])
            found.append(Candidate(path, first.features[path], first.calls[path],
                                   statistics.median(shares) if shares else 0.0, after, shares))
    return found


def training_step(model: Any, batches: List[Any]) -> Callable[[int], Tuple[str, ...]]:
    """Return the function that runs forward and backward of a batch, leaving weights and gradients as they are.

    It returns the names of the losses.
    """

    def step(number: int) -> Tuple[str, ...]:
        data = model.data_preprocessor(batches[number % len(batches)], True)
        losses = model(**data, mode='loss')
        total = model.parse_losses(losses)[0]
        total.backward()
        for parameter in model.parameters():
            parameter.grad = None
        return tuple(name for name in losses if 'loss' in name)

    return step
