"""Which modules run once for several passes."""
from __future__ import annotations

from typing import Dict, List, Tuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class Meetings:
    """Which modules have been found to run for several passes at once.

    Attributes:
        joinable: By path, whether the rows of its arguments are treated independently.
        undecided: Paths of modules that all passes came to, with arguments that did not fit.
    """

    def __init__(self) -> None:
        self.joinable: Dict[str, bool] = {}
        self.undecided: Dict[str, None] = {}

    def candidates(self, model: nn.Module) -> List[Tuple[str, nn.Module]]:
        """List the modules to stop at: all as long as none is known."""
        if any(self.joinable.values()):
            names = [name for name, good in self.joinable.items() if good]
            return [(name, model.get_submodule(name)) for name in [*names, *self.undecided]]
        inner = {id(part) for m in model.modules() if isinstance(m, _BatchNorm) for part in m.children()}
        skipped = {id(model), id(getattr(model, 'data_preprocessor', None)), *inner}
        return [(name, m) for name, m in model.named_modules() if id(m) not in skipped
                and type(m).forward is not nn.Module.forward and self.joinable.get(name, True)]
