"""From which checkpoint a config's training goes on."""
from __future__ import annotations

import os.path as osp
from typing import Any, Optional

from .checkpoints import Found, find_checkpoint


def find_resume(cfg: Any, trusted: bool = False) -> Optional[Found]:
    """Find the newest whole checkpoint of the run that a config describes.

    Args:
        cfg: A runner's config, with its ``work_dir``; not modified.
        trusted: Whether the files are the user's own, so that what a checkpoint holds need not be looked at.

    Returns:
        What was found; None where checkpoints are written to another place than a local folder, which mmengine's own
        search knows.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    folder = cfg.work_dir
    out_dir = hook.get('out_dir')
    if '://' in str(out_dir) or 's3:' in str(out_dir):
        return None
    if out_dir is not None and str(out_dir) != cfg.work_dir:  # as CheckpointHook.before_train has it
        folder = osp.join(str(out_dir), osp.basename(cfg.work_dir.rstrip(osp.sep)))
    return find_checkpoint(cfg.work_dir, folder, hook.get('filename_tmpl'), trusted)


def go_on(cfg: Any, found: Found) -> None:
    """Write into a config where its training goes on, in place: from what was found, or from the beginning.

    A training without a checkpoint begins as it would have without ``resume``: from ``load_from``, where that is set.
    """
    cfg.resume = found.path is not None
    if found.path is not None:
        cfg.load_from = found.path
