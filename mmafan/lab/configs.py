"""Configs as the command line tools read and complete them."""
from __future__ import annotations

import argparse
import os.path as osp
from typing import Any, Optional

from mmengine.config import Config

from ..registry import scope_of_type
from .errors import require_file, stop


def read_config(path: str, cfg_options: Optional[dict] = None) -> Config:
    """Read a config file and override fields.

    Raises:
        ValueError: With one sentence, whatever the Python of the file raises and whatever does not fit.
    """
    try:
        cfg = Config.fromfile(path)
    except Exception as error:
        raise ValueError(f'{path} cannot be read: {type(error).__name__}: {" ".join(str(error).split())}') from error
    try:
        cfg.merge_from_dict(cfg_options or {})
    except Exception as error:
        raise ValueError(f'the options {cfg_options} do not fit {path}: {" ".join(str(error).split())}') from error
    if cfg.get('default_scope') is None and isinstance(cfg.get('model'), dict):
        scope = scope_of_type(cfg.model.get('type'))
        if scope is not None:  # new-style configs name classes, and no scope
            cfg.default_scope = scope
    return cfg


def load_config(path: str, cfg_options: Optional[dict] = None) -> Config:
    """Read a config file and apply ``--cfg-options``, or stop with one sentence."""
    require_file(path, 'config file', ('.py', ))
    try:
        return read_config(path, cfg_options)
    except ValueError as error:
        stop(str(error))


def load_whole_config(path: str, cfg_options: Optional[dict] = None) -> Config:
    """Do what :func:`load_config` does, and stop where the config describes no model."""
    cfg = load_config(path, cfg_options)
    if not isinstance(cfg.get('model'), dict):
        stop(f'{path} must be a whole config, whose field model is a dict, got {cfg.get("model")!r}')
    return cfg


def set_work_dir(cfg: Config, args: argparse.Namespace) -> None:
    """Choose the work folder: the command line first, then the config, then the config's name."""
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('./work_dirs', osp.splitext(osp.basename(args.config))[0])


def complete_dataloaders(cfg: Config) -> None:
    """Fill in the data loader fields that mmpretrain's configs leave to its tools, in place.

    mmpretrain's base configs rely on the tool for ``collate_fn``, ``pin_memory`` and ``persistent_workers``. In any
    codebase, ``persistent_workers=True`` with ``num_workers=0`` (what ``--cfg-options`` easily leaves behind) is
    switched off, as torch refuses it.
    """
    for field in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loaders = cfg.get(field)
        for loader in loaders if isinstance(loaders, list) else [loaders]:
            if loader is None:
                continue
            if cfg.get('default_scope') == 'mmpretrain':
                loader.setdefault('pin_memory', True)
                loader.setdefault('persistent_workers', True)
                loader.setdefault('collate_fn', dict(type='default_collate'))
            if not loader.get('num_workers'):
                loader['persistent_workers'] = False


def build_runner(cfg: Config) -> Any:
    """Build mmengine's ``Runner``, or the one that ``cfg.runner_type`` names."""
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
