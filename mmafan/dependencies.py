"""What mmafan needs and pip does not bring along: told in one sentence when it is missing."""
from __future__ import annotations

from importlib import import_module
from typing import Tuple

MMENGINE = ((0, 10, 4), (1, ))


def version_tuple(text: str) -> Tuple[int, ...]:
    """Return the leading numbers of a version.

    Example:
        >>> version_tuple('0.10.7'), version_tuple('1.0.0rc1')
        ((0, 10, 7), (1, 0))
    """
    found = []
    for part in text.split('+')[0].split('.'):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)


def check() -> None:
    """Raise an ImportError that names what is missing, or too old, and the remedy."""
    try:
        import_module('torch')
    except ModuleNotFoundError as error:
        raise _named(error, 'torch', 'mmafan needs torch, which is not installed here: see https://pytorch.org for the '
                     'build that fits this machine, then install OpenMMLab') from None
    try:
        mmengine = import_module('mmengine')
    except ModuleNotFoundError as error:
        if error.name == 'pkg_resources':
            raise ImportError("mmengine needs pkg_resources, which setuptools 82 removed: "
                              "run pip install 'setuptools<82'") from None
        raise _named(error, 'mmengine', 'mmafan adds to OpenMMLab, and there is no mmengine here: install mmengine, '
                     'mmcv and one of mmpretrain, mmdet and mmsegmentation (or their onedl-* forks) first') from None
    low, high = MMENGINE
    if not low <= version_tuple(mmengine.__version__) < high:
        raise ImportError(f'mmafan needs mmengine {".".join(map(str, low))} or newer and below {high[0]}.0, '
                          f'found {mmengine.__version__}')


def _named(error: ModuleNotFoundError, name: str, sentence: str) -> ModuleNotFoundError:
    """Keep the error where something else is missing inside of what is there."""
    return ModuleNotFoundError(sentence, name=name) if error.name == name else error


check()
