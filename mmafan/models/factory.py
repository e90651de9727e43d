"""Make the A-FAN subclass of a model class: for the registry's rule, and as a class decorator."""
from __future__ import annotations

import importlib
from typing import Any, Dict, Type

from mmengine.model import BaseModel

from .entry import ForwardEntry, LossEntry
from .mixin import AFANModelMixin

# Which module of mmafan holds the mixin for models of a codebase; imported only when such a model is asked for.
_MIXIN_MODULES = {'mmpretrain': '.classification', 'mmdet': '.detection', 'mmseg': '.segmentation'}
_MADE: Dict[Type, Type] = {}


def _mixin_for(stock: Type) -> Type[AFANModelMixin]:
    for base in stock.__mro__:
        module = _MIXIN_MODULES.get(base.__module__.partition('.')[0])
        if module is not None:
            return importlib.import_module(module, __package__).MIXIN
    return AFANModelMixin


def make_afan_class(stock: Type) -> Type:
    """Make (once) the class ``AFAN<Stock>``, a subclass of ``stock`` that takes the argument ``afan``.

    Args:
        stock: A subclass of :class:`mmengine.model.BaseModel`.

    Raises:
        TypeError: If it is not, for example a backbone.
    """
    if not (isinstance(stock, type) and issubclass(stock, BaseModel)):
        raise TypeError(f'A-FAN wraps whole models (subclasses of mmengine.model.BaseModel such as ImageClassifier), '
                        f'got {getattr(stock, "__name__", stock)!r}')
    if issubclass(stock, AFANModelMixin):
        return stock
    if stock not in _MADE:
        entry = LossEntry if hasattr(stock, 'loss') else ForwardEntry
        namespace: Dict[str, Any] = {'__module__': 'mmafan.models', '__doc__': stock.__doc__}
        _MADE[stock] = type(f'AFAN{stock.__name__}', (_mixin_for(stock), entry, stock), namespace)
    return _MADE[stock]


def afan_model(cls: Type) -> Type:
    """Class decorator: give a user's own model the argument ``afan=dict(...)``.

    The decorated class keeps its name, so it is registered and configured as before. ``forward(..., mode='loss')``
    or, where there is one, ``loss`` must return a dict of losses, as everywhere in OpenMMLab. Inside the class write
    ``super()``, not ``super(Net, self)``: the name now means the decorated class.

    Raises:
        TypeError: If the class is no :class:`mmengine.model.BaseModel`.

    Example:
        >>> @afan_model
        ... class Net(BaseModel):
        ...     def forward(self, inputs, data_samples=None, mode='tensor'):
        ...         return inputs
        >>> Net.__name__, issubclass(Net, AFANModelMixin)
        ('Net', True)
    """
    made = make_afan_class(cls)
    if made is cls:
        return cls
    return type(cls.__name__, (made, ), {'__module__': cls.__module__, '__qualname__': cls.__qualname__,
                                         '__doc__': cls.__doc__})
