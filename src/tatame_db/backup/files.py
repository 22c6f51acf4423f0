"""Files of backups: those that are copied by the thousand, and those that may be none."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def copy_file(source: str, target: str) -> None:
    """Copy a file; some file systems let both share their blocks, which takes neither time nor space."""
    with open(source, "rb") as read, open(target, "wb") as write:  # noqa: PTH123, called for each of thousands of files
        size = os.fstat(read.fileno()).st_size
        copied = 0
        # Not on macOS.
        if copy_range := getattr(os, "copy_file_range", None):
            with contextlib.suppress(OSError):
                while copied < size and (done := copy_range(read.fileno(), write.fileno(), size - copied)):
                    copied += done
        read.seek(copied)
        write.seek(copied)
        shutil.copyfileobj(read, write, 1 << 20)
    shutil.copymode(source, target)


def regular(path: Path) -> Path:
    """Return the path of a file; a pipe would be waited for without end. Raises `OSError`."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return path
