"""The directory that the processes of one test run share, and how a living run is told from a dead one.

Each process holds a lock on a file in it for as long as it lives, however it dies: who can lock that file alone has
found a dead run. Nothing heavy is imported here, for the plugin asks in every run of pytest, database or not.
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
_MEMORY = Path("/dev/shm")  # noqa: S108, it is chosen for being memory, and the names in it are random
# Many systems keep /tmp in memory, and this never.
_DISK = Path("/var/tmp")  # noqa: S108, as above
# The server's first files take 60 MB, and its log of changes grows up to a gigabyte.
_MEMORY_NEEDED_BYTES = 2 * 1024**3


def new_run_directory(*, on_disk: bool = False) -> Path:
    """Name a directory for a run, in memory where there is enough of it; nothing is made yet.

    `TMPDIR` decides where it is set.
    """
    parent = Path(tempfile.gettempdir())
    if "TMPDIR" not in os.environ:
        if on_disk and _DISK.is_dir():
            parent = _DISK
        elif not on_disk and _usable(_MEMORY):
            parent = _MEMORY
    return parent / f"{_PREFIX}{secrets.token_hex(6)}"


def in_memory(directory: Path) -> bool:
    """Say whether what is written there stays in memory."""
    return directory.is_relative_to(_MEMORY)


def run_name(directory: Path) -> str:
    """Return the part of the name that no other run has: hexadecimal digits."""
    return directory.name.removeprefix(_PREFIX)


def _usable(memory: Path) -> bool:
    if not memory.is_dir() or not os.access(memory, os.W_OK):
        return False
    state = os.statvfs(memory)
    # The server may have to put a copy of its programs beside its data.
    return not state.f_flag & os.ST_NOEXEC and state.f_bavail * state.f_frsize >= _MEMORY_NEEDED_BYTES


def join(directory: Path) -> IO[str]:
    """Make the directory if it is missing, and count as one of the run's living processes until the file is closed."""
    while True:
        directory.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            # As root, the server belongs to another user, who has to pass through whatever the umask is.
            directory.chmod(0o755)
            alive = (directory / "alive").open("a")
            fcntl.flock(alive, fcntl.LOCK_SH)
            if os.fstat(alive.fileno()).st_nlink:
                return alive
            # While we waited, another run took this one for dead and deleted its directory.
            alive.close()


@contextlib.contextmanager
def one_at_a_time(directory: Path) -> Generator[None]:
    """Keep the run's other processes out."""
    with (directory / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def dead_runs(directory: Path) -> Iterator[Path]:
    """Give the directories beside this one that belong to us and to no living process, and delete each afterwards."""
    for other in directory.parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            if other == directory or other.stat().st_uid != os.geteuid():
                continue
            with (other / "alive").open("a") as alive:
                fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield other
                shutil.rmtree(other)
