"""What ``_base_ = 'mmafan::...'`` needs of mmengine, so that a child means the same by every road.

Each function changes one thing of mmengine, says why, and may be called again.
"""
from __future__ import annotations

import functools
import os.path as osp
from typing import Any, Optional

from .naming import SCOPE, afan_name, stock_name
from .registry import CODEBASES, MODELS

PACKAGE = osp.dirname(osp.abspath(__file__))


def codebase_of(path: str) -> Optional[str]:
    """Return the codebase whose types a config of mmafan names: the folder it lies in, or None.

    Example:
        >>> codebase_of('mmafan::mmdet/faster_rcnn_r50_fpn_afan_coco.py'), codebase_of('mmafan::_base_/runtime.py')
        ('mmdet', None)
    """
    folders = path.rpartition('::')[2].replace(osp.sep, '/').split('/')[:-1]
    return next((folder for folder in folders if folder in CODEBASES), None)


def find_own_configs() -> None:
    """Read ``mmafan::mmdet/...`` from this package, as a config of mmdet.

    mmengine stamps ``_scope_='mmafan'`` on what such a base brings, although its types are mmdet's: a child would build
    other classes than the config itself. And it looks for the package where pip keeps the metadata, which for
    ``pip install -e .`` is another folder than the package.
    """
    from mmengine.config import Config
    from mmengine.config import config as module
    from mmengine.hub import hub
    stock = Config._get_cfg_path
    if getattr(stock, '_knows_mmafan', False):
        return

    def get_cfg_path(cfg_path: str, filename: str) -> Any:
        path, scope = stock(cfg_path, filename)
        return path, codebase_of(cfg_path) if scope == SCOPE else scope

    get_cfg_path._knows_mmafan = True  # type: ignore[attr-defined]
    Config._get_cfg_path = staticmethod(get_cfg_path)
    for user in (module, hub):
        user.get_installed_path = _with_own_path(user.get_installed_path)


def _with_own_path(stock: Any) -> Any:

    @functools.wraps(stock)
    def get_installed_path(package: str) -> str:
        return PACKAGE if package == SCOPE else stock(package)

    return get_installed_path


def keep_scope_out_of_collate() -> None:
    """Let data loaders of a base keep their ``collate_fn=dict(type=...)``.

    mmengine stamps ``_scope_`` on it as on any dict with a type, and passes all but the type to the function
    (``default_collate() got an unexpected keyword argument '_scope_'``).
    """
    from mmengine.runner import Runner
    stock = Runner.build_dataloader
    if getattr(stock, '_pops_scope', False):
        return

    @functools.wraps(stock)
    def build_dataloader(dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        collate = dataloader.get('collate_fn') if isinstance(dataloader, dict) else None
        if isinstance(collate, dict) and '_scope_' in collate:
            dataloader = {**dataloader, 'collate_fn': {k: v for k, v in collate.items() if k != '_scope_'}}
        return stock(dataloader, *args, **kwargs)

    build_dataloader._pops_scope = True  # type: ignore[attr-defined]
    Runner.build_dataloader = staticmethod(build_dataloader)


def find_models_without_scope() -> None:
    """Find ``AFANFasterRCNN``, and ``mmdet.AFANFasterRCNN``, where mmengine's own search ends without a result.

    The models are made on demand, in the registry of scope mmafan; other registries do not ask it.
    """
    from mmengine.registry import Registry
    stock = Registry.get
    if getattr(stock, '_asks_mmafan', False):
        return

    @functools.wraps(stock)
    def get(self: Any, key: str) -> Any:
        scope, _, name = str(key).rpartition('.')
        wanted = stock_name(name)
        if (wanted is None or self.root is not MODELS.root
                or scope not in ('', *CODEBASES, *self.root._children) or scope == SCOPE):
            return stock(self, key)
        try:
            found = stock(self, key)
        except (RuntimeError, ImportError):
            found = None
        return MODELS.get(afan_name(f'{scope}.{wanted}' if scope else wanted)) if found is None else found

    get._asks_mmafan = True  # type: ignore[attr-defined]
    Registry.get = get


def apply() -> None:
    """Change all of it."""
    find_own_configs()
    keep_scope_out_of_collate()
    find_models_without_scope()
