"""A lock on a folder that two runs must not share."""
from __future__ import annotations

import fcntl
import os
import os.path as osp
import socket
import sys
import time
from typing import Any, Optional

NAME = '.lock'


class FolderLock:
    """A lock on a folder, which the kernel releases when the last process that holds it has ended, however that was.

    It is held until :meth:`release`, by this process and by every one that inherits :attr:`descriptor`
    (``pass_fds`` of :class:`subprocess.Popen`), so that whoever takes it finds no process left in the folder. The file
    ``.lock`` says who took it; the file itself means nothing.

    Args:
        folder: An existing folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, FolderLock(folder) as lock:
        ...     FolderLock(folder).acquire(patience=0) is None
        False
    """

    def __init__(self, folder: str) -> None:
        self.path = osp.join(folder, NAME)
        self.descriptor: Optional[int] = None

    def acquire(self, patience: float = 0.0) -> Optional[str]:
        """Take the lock.

        Args:
            patience: Seconds to wait for another process to release it.

        Returns:
            None, or who holds it, as it told. A file system without locks does not keep anyone out.

        Raises:
            OSError: If the file cannot be made.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    holder = os.pread(descriptor, 4096, 0).decode(errors='replace').strip()
                    os.close(descriptor)
                    return holder or 'another process'
                time.sleep(0.1)
            except OSError:  # no locks here, as on some network file systems
                break
        self.keep(descriptor)
        command = ' '.join(sys.argv)[:500]
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f'process {os.getpid()} on {socket.gethostname()} ({command})\n'.encode(), 0)
        return None

    def keep(self, descriptor: int) -> None:
        """Hold the lock by a descriptor, here or in a process that has inherited it.

        Processes that are forked later, such as the workers of a data loader, let go: they may live on for a while.
        """
        self.descriptor = descriptor
        os.register_at_fork(after_in_child=self.release)

    def release(self) -> None:
        """Let go; without effect where the lock is not held."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def __enter__(self) -> 'FolderLock':
        holder = self.acquire()
        if holder is not None:
            raise BlockingIOError(f'{osp.dirname(self.path)} is in use by {holder}')
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()
