"""The rule of names: ``AFAN`` and the name of the stock model."""
from __future__ import annotations

from typing import Any, Optional

SCOPE = 'mmafan'
_PREFIX = 'AFAN'


def afan_name(stock: str) -> str:
    """Return the name of a stock model's A-FAN class.

    Example:
        >>> afan_name('FasterRCNN'), stock_name('AFANFasterRCNN'), stock_name('FasterRCNN')
        ('AFANFasterRCNN', 'FasterRCNN', None)
    """
    return f'{_PREFIX}{stock}'


def type_name(kind: Any) -> str:
    """Return the name of a type in a config, without its scope; new-style configs have classes there.

    Example:
        >>> type_name('mmafan.AFANFasterRCNN'), type_name(dict), type_name(None)
        ('AFANFasterRCNN', 'dict', 'None')
    """
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))).rpartition('.')[2]


def stock_name(name: str) -> Optional[str]:
    """Return the name of the stock model of an A-FAN class; None for any other name."""
    return name[len(_PREFIX):] if name.startswith(_PREFIX) and '.' not in name else None
