"""Writing a file so that it is whole or not there, whenever the process is killed and whenever the disk is full."""
from __future__ import annotations

import contextlib
import errno
import os
from typing import Optional, Union

PART = '.part'  # ending of a file that is being written


def write_whole(path: Union[str, 'os.PathLike[str]'], data: Union[bytes, str]) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it.

    Whoever opens ``path`` finds what was there before or all of ``data``. Where writing fails, what was written is
    removed, so that a full disk is no fuller than before. A link is followed, and a device is written to in place.

    Args:
        path: The file; its folder must exist.
        data: Bytes, or text that is encoded in UTF-8.

    Raises:
        OSError: If the file cannot be written.
    """
    content = data.encode() if isinstance(data, str) else data
    target = os.path.realpath(path)
    if os.path.exists(target) and not os.path.isfile(target):
        with open(target, 'wb') as file:
            file.write(content)
        return
    part = target + PART
    try:
        with open(part, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(part)
        raise
    _flush_folder(os.path.dirname(target))


def _flush_folder(folder: str) -> None:
    """Flush the new name too; some file systems cannot, and then the file is whole, under one of its two names."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_parts(folder: str, ending: str) -> None:
    """Remove what killed processes have begun to write in a folder; no other one may be writing there.

    Args:
        folder: Where files were written by :func:`write_whole`.
        ending: Of the files that it was to be, such as ``'.pth'``.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name.endswith(ending + PART):
                with contextlib.suppress(OSError):
                    os.remove(os.path.join(folder, name))


def is_disk_full(error: Optional[BaseException]) -> bool:
    """Tell whether an error, or one that it came from, is that of a full disk or of a used up quota.

    Example:
        >>> is_disk_full(OSError(errno.ENOSPC, 'No space left on device')), is_disk_full(ValueError('wrong'))
        (True, False)
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False
