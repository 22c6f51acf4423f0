"""The directory that the processes of one run share, and how a dead run is recognized.

Each process of a run holds a shared lock on a file in the directory, and the kernel releases it however the process
ends. A process that gets the lock exclusively has found a dead run. Nothing heavy is imported here, because the pytest
plugin imports it in every run, with a database or without.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_PREFIX = "tatame-tests-"
_MEMORY = Path("/dev/shm")  # noqa: S108, the names in it are random
# On many systems /tmp is in memory; this directory never is.
_DISK = Path("/var/tmp")  # noqa: S108, as above
# A new server takes 60 MB, and its write-ahead log grows up to a gigabyte.
_MEMORY_NEEDED_BYTES = 2 * 1024**3


def new_run_directory(*, on_disk: bool = False) -> Path:
    """Choose the path of a run directory, in memory if there is enough, and create nothing yet.

    `TMPDIR` overrides the choice.
    """
    parent = Path(tempfile.gettempdir())
    if "TMPDIR" not in os.environ:
        if on_disk and _DISK.is_dir():
            parent = _DISK
        elif not on_disk and _usable(_MEMORY):
            parent = _MEMORY
    return parent / f"{_PREFIX}{secrets.token_hex(6)}"


def in_memory(directory: Path) -> bool:
    """Return whether a directory is in memory."""
    return directory.is_relative_to(_MEMORY)


def run_name(directory: Path) -> str:
    """Return the unique part of the directory's name: 12 hexadecimal digits."""
    return directory.name.removeprefix(_PREFIX)


def _usable(memory: Path) -> bool:
    if not memory.is_dir() or not os.access(memory, os.W_OK):
        return False
    state = os.statvfs(memory)
    # The server may have to run a copy of its programs from there.
    return not state.f_flag & os.ST_NOEXEC and state.f_bavail * state.f_frsize >= _MEMORY_NEEDED_BYTES


def join(directory: Path) -> IO[str]:
    """Create the directory if it is missing; while the returned file is open, this process keeps the run alive."""
    while True:
        directory.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            # Root's server runs as another user, who must be able to enter whatever the umask is.
            directory.chmod(0o755)
            alive = (directory / "alive").open("a")
            fcntl.flock(alive, fcntl.LOCK_SH)
            if os.fstat(alive.fileno()).st_nlink:
                return alive
            # During the wait for the lock, another run took this one for dead and deleted its directory.
            alive.close()


def delete(directory: Path) -> None:
    """Delete the directory of a run, which another run may be deleting too, or a late process joining."""
    shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def one_at_a_time(directory: Path) -> Generator[None]:
    """Exclude the other processes of the run from a block."""
    with (directory / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def dead_runs(directory: Path) -> Iterator[Path]:
    """Yield the directories of dead runs beside this one that belong to this user, and delete each afterwards."""
    for other in directory.parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            if other == directory or other.stat().st_uid != os.geteuid():
                continue
            # Not created: in a directory that another run deletes just now, it would be a new one.
            with (other / "alive").open("r+") as alive:
                fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Between `open` and `flock`, another run may have deleted this directory, and its own run joined again:
                # then the lock is on a file that is gone, and says nothing about the one in its place.
                if os.fstat(alive.fileno()).st_nlink:
                    yield other
                    delete(other)
