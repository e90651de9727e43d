"""Backbones that the codebases lack; imported on demand, since their files import a codebase."""
from __future__ import annotations

import importlib
from typing import Any

__all__ = ['CIFARResNet', 'EfficientNetLite']

_FILES = {'CIFARResNet': '.cifar_resnet', 'EfficientNetLite': '.efficientnet_lite'}


def __getattr__(name: str) -> Any:
    if name in _FILES:
        return getattr(importlib.import_module(_FILES[name], __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
