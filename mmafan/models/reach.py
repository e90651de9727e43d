"""Whether the code of a model may come to one of its modules."""
from __future__ import annotations

import dis
import inspect
from typing import Any, Iterator

from torch import nn


def may_run(model: nn.Module, path: str) -> bool:
    """Whether the code of a model reads a module from where it lies, so that a forward may come to it.

    What is only stored there by ``__init__`` will not be reached by any batch.
    """
    parent, _, leaf = path.rpartition('.')
    while leaf.isdigit():  # an entry of a list is read with the list
        parent, _, leaf = parent.rpartition('.')
    for cls in type(model.get_submodule(parent)).__mro__:
        if not cls.__module__.startswith(('torch.', 'mmengine.')):
            for value in vars(cls).values():
                code = getattr(inspect.unwrap(value), '__code__', None) if callable(value) else None
                if code is not None and any(i.opname in ('LOAD_ATTR', 'LOAD_METHOD') and i.argval == leaf
                                            for i in _instructions(code)):
                    return True
    return False


def _instructions(code: Any) -> Iterator[dis.Instruction]:
    yield from dis.get_instructions(code)
    for constant in code.co_consts:
        if inspect.iscode(constant):
            yield from _instructions(constant)
