"""mmafan: adversarial feature augmentation for OpenMMLab models."""
from __future__ import annotations

from . import dependencies  # noqa: F401  (before all others: says what is missing)

# isort: split
from . import datasets, engine, evaluation, hooks, inheritance, layers  # noqa: F401  (importing registers)
from .models import afan_model
from .registry import DATASETS, HOOKS, MODEL_WRAPPERS, MODELS
from .version import __version__

inheritance.apply()

__all__ = ['DATASETS', 'HOOKS', 'MODELS', 'MODEL_WRAPPERS', '__version__', 'afan_model']
