"""Registering what mmafan has, and a description of the environment."""
from __future__ import annotations

from importlib import import_module
from typing import Any, Dict

from mmengine.registry import DefaultScope

from ..registry import CODEBASES, SCOPE
from ..version import __version__


def register_all_modules(init_default_scope: bool = False) -> None:
    """Register everything of mmafan.

    Args:
        init_default_scope: Make ``mmafan`` the default scope where there is none. Unlike the codebases' own function it
            does not do so by itself: the default scope of an A-FAN config is that of its codebase.
    """
    import_module(SCOPE)
    if init_default_scope and DefaultScope.get_current_instance() is None:
        DefaultScope.get_instance(SCOPE, scope_name=SCOPE)


def collect_env() -> Dict[str, Any]:
    """Describe the environment, as ``mmengine.utils.dl_utils.collect_env`` does, with mmafan and the codebases.

    Example:
        >>> 'mmafan' in collect_env()
        True
    """
    from mmengine.utils.dl_utils import collect_env as collect_base_env
    found = collect_base_env()
    for name in CODEBASES:
        try:
            found[name] = import_module(name).__version__
        except ImportError as error:
            found[name] = f'not there ({error})'
    found[SCOPE] = __version__
    return found
