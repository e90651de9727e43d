"""``python -m mmafan``: the same as the command ``mmafan``."""
from __future__ import annotations

from .cli.main import main

if __name__ == '__main__':
    main()
