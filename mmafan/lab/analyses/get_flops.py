"""Run the ``get_flops.py`` of a config's own codebase, with the same arguments.

mmafan is imported first, whose workarounds let mmseg's tool run with mmengine 0.10.7; the others run as they are.
"""
from __future__ import annotations

import importlib
import os.path as osp
import runpy
import sys
from typing import Optional, Sequence

from ..configs import load_config
from ..errors import stop


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Find the tool and become it."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0].startswith('-'):
        stop('the first argument must be a config file')
    scope = load_config(argv[0]).get('default_scope')
    codebases = ('mmpretrain', 'mmdet', 'mmseg')
    if scope not in codebases:
        stop(f'default_scope of {argv[0]} must be one of {", ".join(codebases)}, got {scope!r}')
    folder = osp.join(osp.dirname(str(importlib.import_module(scope).__file__)), '.mim', 'tools', 'analysis_tools')
    sys.argv = [osp.join(folder, 'get_flops.py'), *argv]
    runpy.run_path(sys.argv[0], run_name='__main__')
