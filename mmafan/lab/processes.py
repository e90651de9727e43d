"""Programs that a tool starts: those of mmafan itself, and commands with a limit of time."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Callable, Dict, List, Optional, Sequence


def own_command(name: str) -> List[str]:
    """Return the command that runs a subcommand of ``mmafan`` with this Python, wherever the package lies."""
    return [sys.executable, '-m', 'mmafan', name]


def run_limited(command: Sequence[str], log: str, seconds: float, environment: Optional[Dict[str, str]] = None,
                is_stuck: Callable[[], bool] = lambda: False, folder: Optional[str] = None) -> Optional[int]:
    """Run a command until it ends, its time is up or it is stuck; what it started in its session ends with it.

    Args:
        command: Program and arguments.
        log: File to which both outputs are added. Not a pipe: a process that outlives its parent would hold it open.
        seconds: Time limit.
        environment: Variables to set beside those of this process.
        is_stuck: Asked several times a second; the command ends where it says True.
        folder: Where it runs; None: here.

    Returns:
        Exit status, negative for a signal; None where the command was stopped here.
    """
    end = time.monotonic() + seconds
    with open(log, 'ab') as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                                   env={**os.environ, **(environment or {})}, cwd=folder,
                                   start_new_session=True)
        try:
            while process.poll() is None:
                if time.monotonic() > end or is_stuck():
                    return None
                time.sleep(0.1)
            return process.returncode
        finally:
            stop_group(process)


def stop_group(process: 'subprocess.Popen[bytes]', patience: float = 5.0) -> None:
    """End a process and its group: ask, wait for at most ``patience`` seconds, then kill."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:  # nobody is left
            break
        end = time.monotonic() + patience
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
    process.poll()
