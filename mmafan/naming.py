"""The rule of names: ``AFAN`` and the name of the stock model."""
from __future__ import annotations

from typing import Optional

SCOPE = 'mmafan'
_PREFIX = 'AFAN'


def afan_name(stock: str) -> str:
    """Return the name of a stock model's A-FAN class.

    Example:
        >>> afan_name('FasterRCNN'), stock_name('AFANFasterRCNN'), stock_name('FasterRCNN')
        ('AFANFasterRCNN', 'FasterRCNN', None)
    """
    return f'{_PREFIX}{stock}'


def stock_name(name: str) -> Optional[str]:
    """Return the name of the stock model of an A-FAN class; None for any other name."""
    return name[len(_PREFIX):] if name.startswith(_PREFIX) and '.' not in name else None
