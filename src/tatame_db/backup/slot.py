"""The slot of an archive on its server, and the one process that may use both."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import socket
import time
from typing import TYPE_CHECKING, Any

import psycopg

from tatame_db.backup.archive_errors import ArchiveFollowed
from tatame_db.backup.errors import FolderUnusable
from tatame_db.backup.marks import WAL, read_state
from tatame_db.database.driver import driver_connection

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path
    from typing import IO

    from tatame_db.database.pool import Database

Connection = psycopg.Connection[tuple[Any, ...]]

_PREFIX = "tatame_backup_"
_LOCK = ".follower"
# The program of a killed process writes its segment to the disk before it ends.
_LEAVING_SECONDS = 5.0


def stop_following(database: Database, folder: Path) -> str | None:
    """Drop the slot of a folder, and return its name; `None` if the server has none. What is archived stays.

    Raises `ArchiveFollowed` while another process archives, and `DatabaseUnavailable`.
    """
    folder = folder.expanduser().absolute()
    if not (folder / WAL).is_dir():
        return None
    with alone(folder), session(database) as connection:
        name = slot_of(folder)
        found = connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [name]
        )
        return name if found.fetchone() else None


@contextlib.contextmanager
def alone(folder: Path) -> Generator[IO[str]]:
    """Keep other followers out of the folder. Raises `ArchiveFollowed`, `FolderUnusable`."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / WAL).mkdir(mode=0o700, exist_ok=True)
        lock = (folder / WAL / _LOCK).open("a")
    except OSError as error:
        raise FolderUnusable(folder=folder, reason=error.strerror or str(error)) from error
    deadline = time.monotonic() + _LEAVING_SECONDS
    with lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ArchiveFollowed(folder=folder) from None
                time.sleep(0.05)
        yield lock


@contextlib.contextmanager
def session(database: Database) -> Generator[Connection]:
    """Connect; each statement is a transaction."""
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        try:
            yield driver_connection(connection)
        except psycopg.OperationalError as error:
            # It may be lost, and the pool would wait for its answer.
            connection.invalidate(error)
            raise


def slot_of(folder: Path) -> str:
    """Return the name of the slot: recorded, or made from the machine and the folder."""
    if state := read_state(folder):
        return state.slot
    return _PREFIX + hashlib.sha256(f"{socket.gethostname()}:{folder}".encode()).hexdigest()[:8]
