"""What is installed, what does not fit, and the remedy."""
from __future__ import annotations

import os.path as osp
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import List, NamedTuple, Optional, Tuple

from ..dependencies import version_tuple
from ..version import __version__

# Import name: distributions that provide it, upstream's first; versions that were tested (from, below).
PACKAGES: Tuple[Tuple[str, Tuple[str, ...], Tuple[int, ...], Tuple[int, ...]], ...] = (
    ('mmengine', ('mmengine', 'mmengine-lite', 'onedl-mmengine'), (0, 10, 4), (1, )),
    ('mmcv', ('mmcv', 'mmcv-lite', 'onedl-mmcv'), (2, 0), (3, )),
    ('mmpretrain', ('mmpretrain', 'onedl-mmpretrain'), (1, 2), (2, )),
    ('mmdet', ('mmdet', 'onedl-mmdetection'), (3, 3), (4, )),
    ('mmseg', ('mmsegmentation', 'onedl-mmsegmentation'), (1, 2, 2), (2, )),
)
CODEBASES = ('mmpretrain', 'mmdet', 'mmseg')


class Finding(NamedTuple):
    """One line: ``ok``, ``note`` or ``problem``; what; and the remedy."""
    level: str
    text: str
    remedy: str = ''


def installed(names: Tuple[str, ...]) -> List[Tuple[str, str]]:
    """Return which of some distributions are installed, with their versions."""
    found = []
    for name in names:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found


def check_package(module: str, names: Tuple[str, ...], low: Tuple[int, ...], high: Tuple[int, ...]) -> Finding:
    """Look at one package of OpenMMLab."""
    found = installed(names)
    label = ', '.join(f'{name} {number}' for name, number in found)
    if len(found) > 1:
        return Finding('problem', f'{label}: several packages bring the module {module}, and overwrite each other',
                       f'pip uninstall {" ".join(name for name, _ in found)}, then install one of them')
    try:
        loaded = import_module(module)
    except Exception as error:  # whatever a package raises when its parts do not fit
        if not found and isinstance(error, ModuleNotFoundError) and error.name == module:
            return Finding('note', f'{module}: not installed', f'pip install {names[0]}, if you need it')
        first = str(error).strip().splitlines() or [type(error).__name__]
        return Finding('problem', f'{label or module} cannot be imported: {first[0]}', _remedy(module, str(error)))
    number = getattr(loaded, '__version__', found[0][1] if found else '?')
    if not low <= version_tuple(number) < high:
        return Finding('note', f'{module} {number}: tested are {".".join(map(str, low))} up to below '
                       f'{".".join(map(str, high))}', 'if something fails, try one of those first')
    return Finding('ok', f'{module} {number}' + (f' ({found[0][0]})' if found and found[0][0] != names[0] else ''))


def _remedy(module: str, error: str) -> str:
    if 'mmcv._ext' in error:
        return ('mmcv has no compiled operators (mmcv-lite): enough for mmpretrain; for mmdet and mmseg compile mmcv, '
                'as tools/setup_env.sh does')
    if 'pkg_resources' in error:
        return "pip install 'setuptools<82'"
    if 'MMCV==' in error or 'mmcv==' in error.lower():
        return 'install the mmcv that the sentence names'
    if 'undefined symbol' in error:
        return f'{module} was compiled for another torch: compile it again without a cached wheel'
    return 'install it again, or the version it names'


def check_environment() -> List[Finding]:
    """Look at everything that mmafan stands on."""
    import torch
    device = f'CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}' if torch.cuda.is_available() else 'CPU only'
    found = [Finding('ok', f'Python {sys.version.split()[0]}, torch {torch.__version__} ({device})'),
             Finding('ok', f'mmafan {__version__} ({osp.dirname(osp.dirname(osp.abspath(__file__)))})')]
    found += [check_package(*entry) for entry in PACKAGES]
    present = [name for name in CODEBASES if any(f.level != 'problem' and f.text.startswith(f'{name} ') for f in found)]
    if not present:
        found.append(Finding('problem', 'none of mmpretrain, mmdet and mmseg can be imported',
                             "pip install 'mmafan[mmpretrain]' (or mmdet, mmseg), after torch and mmcv"))
    return found


def check_operators() -> Optional[Finding]:
    """Run one of mmcv's operators, which mmdet and mmseg need; None where mmcv is not installed."""
    try:
        import torch
        from mmcv.ops import nms
        nms(torch.tensor([[0., 0., 1., 1.]]), torch.tensor([1.]), 0.5)
    except ModuleNotFoundError as error:
        if error.name == 'mmcv':
            return None
        return Finding('note', 'mmcv has no compiled operators: enough for mmpretrain, not for mmdet and mmseg',
                       'compile mmcv, as tools/setup_env.sh does')
    except Exception as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        return Finding('problem', f"mmcv's operators do not run: {first[0]}",
                       'compile mmcv again for this torch, without a cached wheel')
    return Finding('ok', "mmcv's operators run")
