"""The tools as subcommands: ``mmafan train CONFIG`` is ``python tools/train.py CONFIG``."""
from __future__ import annotations

import os.path as osp
import runpy
import sys
from typing import Dict, List, Tuple

# Links into a clone; a wheel has the files.
FOLDER = osp.join(osp.dirname(osp.dirname(osp.abspath(__file__))), '.mim', 'tools')

TOOLS: Dict[str, Tuple[str, str]] = {
    'train': ('train.py', 'train a config'),
    'test': ('test.py', 'test a checkpoint'),
    'study': ('study.py', 'train arms x seeds and compare them'),
    'cost': ('analysis_tools/step_cost.py', 'measure what A-FAN adds to a step'),
    'compare': ('analysis_tools/compare.py', 'train with and without A-FAN from the same seeds'),
}


def tool_path(name: str) -> str:
    """Return the path of a tool.

    Raises:
        FileNotFoundError: If this installation has no tools.
    """
    path = osp.realpath(osp.join(FOLDER, TOOLS[name][0]))
    if not osp.isfile(path):
        raise FileNotFoundError(f'there is no tool {path}: this installation of mmafan has no tools; install its '
                                f'wheel, or clone the repository')
    return path


def run_tool(name: str, argv: List[str]) -> None:
    """Run a tool in this process, as ``python <path> <argv>`` would.

    Raises:
        FileNotFoundError: If this installation has no tools.
    """
    path = tool_path(name)
    sys.argv = [path, *argv]
    sys.path.insert(0, osp.dirname(path))
    runpy.run_path(path, run_name='__main__')
