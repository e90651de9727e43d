"""The two functions that OpenMMLab's tools expect of every codebase, ``mmengine.hub.get_model`` for one."""
from __future__ import annotations

from .setup_env import collect_env, register_all_modules

__all__ = ['collect_env', 'register_all_modules']
