"""The main process of a PostgreSQL server, as its lock files describe it.

A lock file outlives a killed server, and its number may belong to another process by then. PostgreSQL asks only whether
a process has the number, and so does `pg_ctl`, which sends it a signal.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import URL

SOCKET = ".s.PGSQL.{port}"
DEFAULT_PORT = 5432
# The server notes its start a moment after the system does, in whole seconds; a corrected clock shifts one of the two.
_TOLERANCE_SECONDS = 5


@dataclass(frozen=True)
class Postmaster:
    """The process that a lock file names."""

    pid: int
    data: Path
    started: int
    """The seconds since 1970."""
    port: int
    listens: bool
    """Whether it listens on the port, and not only on a socket."""

    @property
    def is_alive(self) -> bool:
        """Whether the process exists and works on the data, so that it is no other one with the same number."""
        return self._state() not in {None, "zombie"}

    @property
    def is_suspended(self) -> bool:
        """Whether the process exists, and a signal or a debugger has stopped it."""
        return self._state() in {"stopped", "tracing-stop"}

    def _state(self) -> str | None:
        import psutil  # noqa: PLC0415, takes 50 ms, and most programs never ask

        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            process = psutil.Process(self.pid)
            try:
                on_data = Path(process.cwd()).samefile(self.data)
            except psutil.AccessDenied:
                # Root in a container may not see it.
                on_data = abs(process.create_time() - self.started) < _TOLERANCE_SECONDS
            if on_data and process.name() == "postgres":
                return str(process.status())
        return None


def read_lock(file: Path) -> Postmaster | None:
    """Read `postmaster.pid`, or the lock of a socket; `None` if there is none, or a power cut left it incomplete."""
    try:
        pid, data, started, port, _, *later = file.read_text(errors="replace").splitlines()
        # The number of a server in single-user mode is negative.
        return Postmaster(abs(int(pid)), Path(data), int(started), int(port), listens=bool("".join(later[:1]).strip()))
    except (OSError, ValueError):
        return None


def postmaster_of(address: URL) -> Postmaster | None:
    """Return the process behind the socket of an address, if the address names one and its lock can be read."""
    directory, port = str(address.query.get("host", "")), str(address.query.get("port", DEFAULT_PORT))
    if not directory.startswith("/"):
        return None
    path = Path(directory) / SOCKET.format(port=port)
    return read_lock(path.with_name(f"{path.resolve().name}.lock"))
