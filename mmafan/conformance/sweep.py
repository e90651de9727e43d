"""Try many families in processes of their own, and keep a row for each as soon as it is known."""
from __future__ import annotations

import gc
import json
import multiprocessing
import os
import os.path as osp
import time
from contextlib import suppress
from importlib import import_module
from typing import Any, Callable, Dict, List, Optional, Sequence

from ..analysis.exactness import usable_device
from .families import family_names
from .row import Row, describe
from .trial import try_family

SECONDS = 600.0


def read_rows(path: Optional[str]) -> List[Dict[str, Any]]:
    """Read the rows of a file; none where there is no such file."""
    if path is None or not osp.isfile(path):
        return []
    with open(path) as file:
        return json.load(file)


def write_rows(path: str, rows: Sequence[Dict[str, Any]]) -> None:
    """Write rows, one on a line, in the order of codebase and family; the file is whole at any time."""
    ordered = sorted(rows, key=lambda row: (row['codebase'], row['family']))
    lines = ',\n'.join(json.dumps(row, sort_keys=True) for row in ordered)
    os.makedirs(osp.dirname(osp.abspath(path)), exist_ok=True)
    with open(f'{path}.part', 'w') as file:
        file.write(f'[\n{lines}\n]\n')
    os.replace(f'{path}.part', path)


def run_sweep(codebase: str, families: Optional[Sequence[str]] = None, path: Optional[str] = None, jobs: int = 1,
              seconds: float = SECONDS, again: Sequence[str] = (), say: Callable[[str], None] = print,
              device: str = 'cpu', spawn: Optional[bool] = None) -> List[Dict[str, Any]]:
    """Try the families of a codebase that have no row yet.

    Args:
        codebase: Package of the stock models.
        families: Some of its families; None: all.
        path: File of the rows; families that have one are left out.
        jobs: Processes at a time.
        seconds: Time that a family may take.
        again: Outcomes, such as ``'failed'``, whose rows are made anew.
        say: Prints a line for each row.
        device: Where they are tried, such as ``'cuda'``.
        spawn: Processes import the codebase themselves, and try one family after another until one fails; else
            each is a copy of this one for one family, in which a GPU cannot be used. None: on a GPU alone.

    Returns:
        All rows of the file, or those made.

    Raises:
        ValueError: If the codebase is none of the three, or the device is not there.
    """
    usable_device(device)
    names = list(families) if families else family_names(codebase)
    known = {(row['codebase'], row['family']): row for row in read_rows(path)}
    done = {key for key, row in known.items() if row['outcome'] not in again}
    waiting = [name for name in names if (codebase, name) not in done]
    spawn = device != 'cpu' if spawn is None else spawn
    if not spawn:
        _import(codebase)
    processes: List[_Process] = []
    try:
        while waiting or any(process.family for process in processes):
            processes = [process for process in processes if process.is_there()]
            while waiting and len(processes) < jobs:
                processes.append(_Process(codebase, device, seconds, spawn))
            for process in [process for process in processes if process.is_free()]:
                if waiting:
                    process.begin(waiting.pop(0))
            time.sleep(0.05)
            for row in [row for process in processes for row in process.take()]:
                known[codebase, row.family] = row.to_dict()
                if path is not None:
                    write_rows(path, list(known.values()))
                say(f'{row.outcome:10}{codebase}/{row.family}  {row.seconds:.0f} s  {row.reason}'.rstrip())
    finally:
        for process in processes:
            process.end()
    return list(known.values())


class _Process:
    """A process that tries families, one at a time.

    Attributes:
        family: The one it tries; None: it waits for one.
    """

    def __init__(self, codebase: str, device: str, seconds: float, spawn: bool) -> None:
        context: Any = multiprocessing.get_context('spawn' if spawn else 'fork')
        self._own, other = context.Pipe()
        self.family: Optional[str] = None
        self._imported = False
        self._codebase, self._device, self._seconds, self._stays = codebase, device, seconds, spawn
        self._process = context.Process(target=_serve, args=(codebase, device, other, self._stays), daemon=True)
        self._process.start()
        other.close()

    def begin(self, family: str) -> None:
        """Have it try a family; its time begins."""
        self.family, self._begin = family, time.monotonic()
        with suppress(OSError):  # it has just died, which take() tells
            self._own.send(family)

    def take(self) -> List[Row]:
        """Return the row of its family, if there is one now: what it found, or that it has died or has to be ended."""
        if self.family is None:
            return []
        row = None
        try:
            if self._own.poll():
                row = self._own.recv()
            elif not self._process.is_alive():
                self._process.join()
                row = self._lost(f'ended with status {self._process.exitcode}')
            elif time.monotonic() - self._begin > self._seconds:
                row = self._lost(f'took longer than {self._seconds:.0f} s')
        except (EOFError, OSError):  # it has ended, and the line is dead a moment before it is
            self._process.join(10)
            row = self._lost(f'ended with status {self._process.exitcode}')
        if row is None:
            return []
        self.family = None
        if not self._stays or row.outcome == 'failed':  # an error may leave a GPU, or a registry, in any state
            self.end()
        return [row]

    def is_there(self) -> bool:
        """Whether it has a family, or could have one.

        Raises:
            RuntimeError: If it has ended before it could try one.
        """
        alive = self._process.is_alive()
        if not alive and not self._has_imported():
            raise RuntimeError(f'a process that imports {self._codebase} ended with status {self._process.exitcode}')
        return alive or self.family is not None

    def is_free(self) -> bool:
        """Whether it has imported the codebase, and has no family."""
        return self.family is None and self._has_imported()

    def _has_imported(self) -> bool:
        if not self._imported and self._own.poll():
            with suppress(EOFError):
                self._imported = self._own.recv()
        return self._imported

    def end(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.join()
        self._own.close()

    def _lost(self, reason: str) -> Row:
        return Row(self._codebase, self.family or '', reason=reason, device=self._device,
                   seconds=round(time.monotonic() - self._begin, 1))


def _import(codebase: str) -> None:
    for package in ('mmafan', f'{codebase}.models', 'mmafan.conformance.trial'):
        import_module(package)


def _serve(codebase: str, device: str, pipe: Any, stays: bool) -> None:
    """Try the families that come through a pipe; what is printed is of no interest."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(quiet, number)
    _import(codebase)
    import torch
    torch.set_num_threads(1)
    pipe.send(True)
    while True:
        family = pipe.recv()
        row = Row(codebase, family, device=device)
        try:
            row = try_family(codebase, family, device)
        except Exception as error:
            row.reason = describe(error)
        pipe.send(row)
        if not stays:
            return
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
