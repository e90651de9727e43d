"""A progress bar for several runs in a row."""
from __future__ import annotations

import sys
import time
from typing import Optional, TextIO


class Progress:
    """A progress bar with the time left on a terminal; a line per run and tenth elsewhere.

    Args:
        total: Amount of work, in any unit.
        stream: Where to write.
    """

    def __init__(self, total: float, stream: Optional[TextIO] = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self.total, self.done, self.worked = total, 0.0, 0.0
        self.begin = time.monotonic()
        self.shown = -1

    def skip(self, amount: float) -> None:
        """Count work that was done before this program began."""
        self.done += amount

    def advance(self, amount: float, text: str) -> None:
        """Count work just done, and show it."""
        self.done += amount
        self.worked += amount
        left = (time.monotonic() - self.begin) / self.worked * max(self.total - self.done, 0)
        share = min(self.done / self.total, 1.0)
        clock = f'{int(left) // 60}:{int(left) % 60:02d} left'
        if self.stream.isatty():
            bar = '#' * int(share * 24)
            self.stream.write(f'\r[{bar:<24}] {share:4.0%}  {clock}  {text:<48}')
        elif int(share * 10) != self.shown:
            self.shown = int(share * 10)
            self.stream.write(f'{share:4.0%}  {clock}  {text}\n')
        self.stream.flush()

    def close(self) -> None:
        """End the line."""
        if self.stream.isatty():
            self.stream.write('\n')
