"""The layers that analyses of a model look at, and what they return."""
from __future__ import annotations

from typing import Any, Callable, Dict, List, NamedTuple, Sequence

from torch import Tensor, nn

from ..replay import INPUTS
from ..replay.batch import is_feature
from ..replay.tree import map_tensors, tensors_of
from ..validation import suggest


class Layers(NamedTuple):
    """Names of modules, in the order in which they ran.

    Attributes:
        default: The blocks to look at.
        after: All modules that return a feature and ran after the tap alone.
    """
    default: List[str]
    after: List[str]


def choose_layers(model: nn.Module, run: Callable[[], Any], tap: str = INPUTS, at: str = 'output') -> Layers:
    """Run a forward and find the layers after a tap.

    The blocks are the model's children; in place of the one that the tap lies in (the backbone, for ``'inputs'``),
    and of those that are not called themselves (a RoI head), their own children that hold weights.

    Args:
        model: The model.
        run: Runs its forward once.
        tap: Name of the tap's module; ``'inputs'``: everything comes after.
        at: ``'output'`` or ``'input'`` of that module.
    """
    fired: Dict[str, List[bool]] = {}
    reached = [tap == INPUTS]

    def finish(name: str, output: Any) -> None:
        feature = any(is_feature(t) and t.dim() > 1 for t in tensors_of(output))
        fired.setdefault(name, []).append(reached[0] and feature)
        if name == tap and at == 'output':
            reached[0] = True

    handles = [m.register_forward_hook(lambda _, __, out, name=n: finish(name, out))
               for n, m in model.named_modules() if n]
    if tap != INPUTS and at == 'input':
        handles.append(model.get_submodule(tap).register_forward_pre_hook(lambda *_: reached.__setitem__(0, True)))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    after = [name for name, late in fired.items() if all(late)]
    opened = 'backbone' if tap == INPUTS else tap

    def pick(name: str, module: nn.Module, inside: bool = True) -> List[str]:
        opens = opened.startswith(f'{name}.') or name == opened == 'backbone'
        if name in after and not opens:
            return [name] if not inside or any(p.dim() > 1 for p in module.parameters()) else []
        return [found for child, part in module.named_children() for found in pick(f'{name}.{child}', part)]

    default = [found for child, part in model.named_children() for found in pick(child, part, inside=False)]
    return Layers(sorted(default, key=after.index), after)


def check_layers(model: nn.Module, names: Sequence[str]) -> None:
    """Check that modules exist.

    Raises:
        ValueError: If one does not, with the closest name.
    """
    known = [name for name, _ in model.named_modules() if name]
    for name in names:
        if name not in known:
            raise ValueError(f'layers must be modules of {type(model).__name__}, got {name!r}; {suggest(name, known)}')


class LayerOutputs:
    """Context that keeps what modules return: copies, or with ``with_grad`` tensors of the graph.

    Later operations in place (``ReLU(inplace=True)``) leave what is kept as it is.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], with_grad: bool = False) -> None:
        self._modules = {name: model.get_submodule(name) for name in names}
        self._with_grad = with_grad
        self._kept: Dict[str, List[Tensor]] = {}

    def __enter__(self) -> 'LayerOutputs':
        self._handles = [m.register_forward_hook(lambda _, __, out, name=n: self._keep(name, out))
                         for n, m in self._modules.items()]
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, name: str, output: Any) -> Any:
        features = [t for t in tensors_of(output) if is_feature(t) and t.dim() > 1]
        kept = features if self._with_grad else [t.detach().clone() for t in features]
        self._kept.setdefault(name, []).extend(kept)
        return map_tensors(Tensor.clone, output) if self._with_grad else None

    def take(self) -> Dict[str, List[Tensor]]:
        """Return what has been kept, by module, and forget it."""
        kept, self._kept = self._kept, {}
        return kept
