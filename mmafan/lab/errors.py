"""Errors of the command line tools: one sentence instead of a traceback, and exit status 2."""
from __future__ import annotations

import difflib
import os
import os.path as osp
import sys
from typing import Dict, List, NoReturn


class Mistake(Exception):
    """What a user has to change; in one process of several, whoever launched them says it last (``launch.py``)."""


def stop(sentence: str) -> NoReturn:
    """End the program with status 2 and one sentence on stderr."""
    print(f'error: {sentence}', file=sys.stderr, flush=True)
    if 'TORCHELASTIC_ERROR_FILE' in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler
        get_error_handler().record_exception(Mistake(sentence))
    raise SystemExit(2)


def close_names(path: str, suffixes: tuple) -> List[str]:
    """Find files whose names resemble that of a missing one.

    Args:
        path: The path that does not exist.
        suffixes: File endings that count, such as ``('.py', )``.

    Returns:
        Up to three paths, the most similar first: from the same folder where it exists, otherwise from the
        nearest existing folder above it and the folders below that one.
    """
    folder = osp.dirname(path) or '.'
    same_folder = osp.isdir(folder)
    while not osp.isdir(folder):
        folder = osp.dirname(folder) or '.'
    found: Dict[str, str] = {}
    for root, folders, files in os.walk(folder):
        depth = osp.relpath(root, folder).count(os.sep) + 1 if root != folder else 0
        folders[:] = [] if same_folder or depth >= 3 else [f for f in folders if not f.startswith('.')]
        for name in files:
            if name.endswith(suffixes):
                found.setdefault(name, osp.normpath(osp.join(root, name)))
    return [found[name] for name in difflib.get_close_matches(osp.basename(path), found, n=3, cutoff=0.5)]


def require_file(path: str, what: str, suffixes: tuple) -> str:
    """Return ``path``, or stop with a sentence that offers close names where there is no such file."""
    if '://' in path or osp.isfile(path):  # a URL is checked by whoever loads it
        return path
    near = close_names(path, suffixes)
    hint = f'; did you mean {" or ".join(near)}?' if near else ''
    stop(f'there is no {what} {path!r} (seen from {os.getcwd()}){hint}')
