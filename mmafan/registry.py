"""Registries of scope ``mmafan``, and the rule that makes ``AFAN<Stock>`` for every stock model."""
from __future__ import annotations

import importlib
from contextlib import suppress
from typing import Any, Callable, ContextManager, Dict, List, Optional, Type

from mmengine.model import BaseModel
from mmengine.registry import DefaultScope, Registry
from mmengine.registry import root as _root

from .compat import apply as _apply_workarounds
from .naming import SCOPE, afan_name, stock_name
from .validation import suggest

_apply_workarounds()

CODEBASES = ('mmpretrain', 'mmdet', 'mmseg')
# Models whose files import a codebase: imported when one is asked for.
LAZY_MODULES = {'CIFARResNet': 'mmafan.models.backbones.cifar_resnet',
                'EfficientNetLite': 'mmafan.models.backbones.efficientnet_lite'}


def _surrounding_scope() -> Optional[str]:
    """Innermost default scope that is not mmafan's own.

    ``_base_ = 'mmafan::...'`` stamps ``_scope_='mmafan'`` on what it brings; types in it still mean those of the
    codebase the config trains under.
    """
    for instance in reversed(list(DefaultScope._instance_dict.values())):
        if instance.scope_name not in (SCOPE, 'mmengine'):
            return instance.scope_name
    return None


def codebase_scope(cls: Type) -> ContextManager[None]:
    """While a model is built, let types without a scope mean those of its codebase where no codebase surrounds it."""
    packages = [base.__module__.partition('.')[0] for base in cls.__mro__]
    own = next((package for package in packages if package in CODEBASES), None)
    return DefaultScope.overwrite_default_scope(own if _surrounding_scope() is None else None)


class ScopedRegistry(Registry):
    """A child of a root registry that looks in the surrounding codebase for what mmafan does not define."""

    def get(self, key: str) -> Optional[Type]:
        """Find a class by name: here, in the surrounding codebase, at the root, in that order.

        The root comes after the codebase because mmcv registers there, and both have transforms of the same names.
        Without a surrounding codebase it is the only one of those imported that has the name.

        Raises:
            KeyError: If several have it.
        """
        name = key[len(SCOPE) + 1:] if key.startswith(f'{SCOPE}.') else key
        scope = _surrounding_scope()
        self.import_from_location()
        if '.' not in name and name not in self._module_dict:
            found = self._in_codebase(scope, name) if scope is not None else self._in_only_codebase(name)
            if found is not None:
                return found
        return _plain_get(super().get, key if '.' in name else name)

    def _in_codebase(self, scope: str, name: str) -> Optional[Type]:
        _import_registry(scope)
        child = self.root._search_child(scope)
        return None if child is None or child is self else _plain_get(child.get, name)

    def _in_only_codebase(self, name: str) -> Optional[Type]:
        children = {scope: child for scope, child in self.root._children.items() if scope != SCOPE}
        for child in children.values():
            _plain_get(child.get, '')  # imports the modules that register
        found = _holders(children, name)
        if len(found) > 1:
            raise KeyError(f"type '{name}' is ambiguous: {', '.join(sorted(found))} each have one; set default_scope "
                           f"to one of them, or write the type as '{sorted(found)[0]}.{name}'")
        return next(iter(found.values()), None)


class ModelRegistry(ScopedRegistry):
    """MODELS of mmafan: ``AFAN<Stock>`` is made from the stock model of that name when first asked for.

    Attributes:
        make_class: Makes the class of a stock model; :mod:`mmafan.models` puts it here when it is imported.
    """
    make_class: Callable[[Type], Type]

    def get(self, key: str) -> Optional[Type]:
        """Find a class by name, making ``AFAN<Stock>`` on demand.

        Raises:
            KeyError: If there is no stock model of that name, with the closest names.
        """
        name = key[len(SCOPE) + 1:] if key.startswith(f'{SCOPE}.') else key
        if name in LAZY_MODULES:
            importlib.import_module(LAZY_MODULES[name])
        if name in self._module_dict:
            return self._module_dict[name]
        scope, _, last = name.rpartition('.')
        stock = stock_name(scope or name)
        if stock is not None and not scope:
            return self.make_class(self._find_stock(stock))
        if stock in (*CODEBASES, *self.root._children):  # 'AFANmmdet.FasterRCNN' names its codebase
            return self.make_class(self._find_stock(last, str(stock)))
        return super().get(key)

    def _find_stock(self, stock: str, scope_of_stock: str = '') -> Type:
        name, surrounding = afan_name(stock), _surrounding_scope()
        candidates = {scope: found for scope, found in self._candidates().items() if scope_of_stock in ('', scope)}
        found = _holders(candidates, stock)
        if surrounding in found:
            return found[surrounding]
        found = {scope: cls for scope, cls in found.items() if issubclass(cls, BaseModel)} or found
        if len(found) == 1:
            return next(iter(found.values()))
        if found:
            raise KeyError(f"model type '{name}' is ambiguous: {', '.join(sorted(found))} each have a {stock!r}; "
                           f'set default_scope to one of them')
        names = [afan_name(other) for registry in candidates.values() for other in registry._module_dict]
        raise KeyError(f"model type '{SCOPE}.{name}' needs a registered model named {stock!r}, and there is none; "
                       f'{suggest(name, names)}')

    def _candidates(self) -> Dict[str, Registry]:
        """Registries a stock model may come from, the surrounding scope's first; codebases not installed are absent."""
        surrounding = _surrounding_scope()
        for scope in (surrounding, *([] if surrounding in CODEBASES else CODEBASES)):
            if scope is not None:
                _import_registry(scope)
        candidates = {scope: self.root._children[scope] for scope in
                      sorted(self.root._children, key=lambda scope: scope != surrounding) if scope != SCOPE}
        for scope, registry in candidates.items():
            if scope == surrounding or surrounding not in CODEBASES:
                _plain_get(registry.get, '')  # imports the modules that register
        return {**candidates, 'mmengine': self.root}


def _holders(registries: Dict[str, Registry], name: str) -> Dict[str, Type]:
    """The classes of a name, each by the first scope that has it."""
    found: Dict[str, Type] = {}
    for scope, registry in registries.items():
        cls = registry._module_dict.get(name)
        if cls is not None and cls not in found.values():
            found[scope] = cls
    return found


def _plain_get(get: Any, key: str) -> Optional[Type]:
    """``Registry.get`` that answers None where mmengine raises for a name it cannot import."""
    with suppress(RuntimeError, ImportError):
        return get(key)
    return None


def _import_registry(scope: str) -> None:
    with suppress(ImportError):
        importlib.import_module(f'{scope}.registry')


def _child(name: str, cls: Type[Registry] = ScopedRegistry, locations: Optional[List[str]] = None) -> Registry:
    parent = getattr(_root, name)
    return cls(parent.name, parent=parent, scope=SCOPE, locations=locations or ['mmafan'])


MODELS = _child('MODELS', ModelRegistry)
HOOKS = _child('HOOKS')
DATASETS = _child('DATASETS')
MODEL_WRAPPERS = _child('MODEL_WRAPPERS')
# Every other root registry gets a child too, only so that types in a config reached through 'mmafan::' resolve.
OTHERS = {name: _child(name) for name, registry in vars(_root).items()
          if isinstance(registry, Registry) and name not in ('MODELS', 'HOOKS', 'DATASETS', 'MODEL_WRAPPERS')}
