"""Try many families, each in a process of its own, and keep a row for each as soon as it is known."""
from __future__ import annotations

import json
import multiprocessing
import os
import os.path as osp
import time
from importlib import import_module
from typing import Any, Callable, Dict, List, Optional, Sequence

from .families import choose_config, family_names
from .trial import Row, describe, try_config

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
              seconds: float = SECONDS, again: Sequence[str] = (),
              say: Callable[[str], None] = print) -> List[Dict[str, Any]]:
    """Try the families of a codebase that have no row yet.

    The codebase is imported once; processes begin as copies of this one (fork), so that it must not have used a GPU.

    Args:
        codebase: Package of the stock models.
        families: Some of its families; None: all.
        path: File of the rows; families that have one are left out.
        jobs: Processes at a time.
        seconds: Time that a family may take.
        again: Outcomes, such as ``'failed'``, whose rows are made anew.
        say: Prints a line for each row.

    Returns:
        All rows of the file, or those made.
    """
    names = list(families) if families else family_names(codebase)
    known = {(row['codebase'], row['family']): row for row in read_rows(path)}
    done = {key for key, row in known.items() if row['outcome'] not in again}
    for package in ('mmafan', f'{codebase}.models', 'mmafan.conformance.trial'):
        import_module(package)
    running: List[_Process] = []
    waiting = [name for name in names if (codebase, name) not in done]
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(_Process(codebase, waiting.pop(0), seconds))
        time.sleep(0.05)
        for process in [process for process in running if process.is_over()]:
            running.remove(process)
            row = process.row().to_dict()
            known[codebase, row['family']] = row
            if path is not None:
                write_rows(path, list(known.values()))
            say(f'{row["outcome"]:10}{codebase}/{row["family"]}  {row["seconds"]:.0f} s  {row["reason"]}'.rstrip())
    return list(known.values())


class _Process:
    """One family in a process of its own."""

    def __init__(self, codebase: str, family: str, seconds: float) -> None:
        context = multiprocessing.get_context('fork')
        self._own, other = context.Pipe(duplex=False)
        self.codebase, self.family, self._seconds = codebase, family, seconds
        self._begin = time.monotonic()
        self._process = context.Process(target=_run, args=(codebase, family, other), daemon=True)
        self._process.start()
        other.close()
        self._row: Optional[Row] = None

    def is_over(self) -> bool:
        """Whether it has ended, or has been ended because its time is over."""
        if self._own.poll():
            try:
                self._row = self._own.recv()
            except EOFError:
                pass
            self._process.join(10)
        elif self._process.is_alive() and time.monotonic() - self._begin > self._seconds:
            self._process.kill()
            self._process.join()
            self._row = Row(self.codebase, self.family, reason=f'took longer than {self._seconds:.0f} s',
                            seconds=self._seconds)
        return not self._process.is_alive()

    def row(self) -> Row:
        """Return what became of it."""
        if self._row is None:
            self._row = Row(self.codebase, self.family, reason=f'ended with status {self._process.exitcode}')
        return self._row


def _run(codebase: str, family: str, pipe: Any) -> None:
    """Try a family; what it prints is of no interest."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(quiet, number)
    import torch
    torch.set_num_threads(1)
    row = Row(codebase, family)
    try:
        row = try_config(codebase, family, choose_config(codebase, family))
    except Exception as error:
        row.reason = describe(error)
    pipe.send(row)
