"""The order in which mmengine's ``CheckpointHook`` saves and removes: the new one first."""
from __future__ import annotations

import functools
from collections import deque
from typing import Any, Callable, List

from mmengine.dist import is_main_process


class _Postponing:
    """A file backend that removes later; all else is passed through."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.removed: List[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__['backend'], name)

    def remove(self, path: Any) -> None:
        self.removed.append(path)

    def rmtree(self, path: Any) -> None:
        self.removed.append(path)


def _remove(backend: Any, path: Any) -> None:
    if backend.isfile(path):
        backend.remove(path)
    elif backend.isdir(path):  # of an engine that shards
        backend.rmtree(path)


def save_then_remove(stock: Callable) -> Callable:
    """Wrap ``CheckpointHook._save_checkpoint_with_step``."""

    @functools.wraps(stock)
    def save(self: Any, runner: Any, step: int, meta: dict) -> None:
        limit = self.max_keep_ckpts
        if limit <= 0:
            stock(self, runner, step, meta)
            return
        kept = [*(number for number in self.keep_ckpt_ids if number != step), step]
        # One too many in the file itself: a run that resumes from it removes what this one did not get to.
        runner.message_hub.update_info('keep_ckpt_ids', kept)
        self.max_keep_ckpts = -1  # the stock function then only saves
        try:
            stock(self, runner, step, meta)
        finally:
            self.max_keep_ckpts = limit
        self.keep_ckpt_ids = deque(kept[-limit:], limit)
        runner.message_hub.update_info('keep_ckpt_ids', kept[-limit:])
        if is_main_process():
            for number in kept[:-limit]:
                _remove(self.file_backend,
                        self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(number)))

    return save


def save_best_then_remove(stock: Callable) -> Callable:
    """Wrap ``CheckpointHook._save_best_checkpoint``."""

    @functools.wraps(stock)
    def save(self: Any, runner: Any, metrics: Any) -> None:
        backend = self.file_backend
        self.file_backend = postponing = _Postponing(backend)
        try:
            stock(self, runner, metrics)
        finally:
            self.file_backend = backend
        best = [getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()]
        for path in postponing.removed:
            if path not in best:  # the same name again
                _remove(backend, path)

    return save
