"""How PostgreSQL recovers on a copy of a base backup, which begins a timeline of its own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import make_conninfo

from tatame_db.database.address import readable, without_environment
from tatame_db.server.errors import ProgramFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from sqlalchemy import URL

    from tatame_db.server.embedded import EmbeddedServer

_SETTINGS = "postgresql.auto.conf"
_SIGNAL = "recovery.signal"
_ALWAYS = {
    # All is in the directory of the log already.
    "restore_command": "false",
    # So that a limit that the original has raised meanwhile stops nothing.
    "hot_standby": "off",
}
_TO_ITS_END = {"recovery_target_timeline": "current"}
_PAUSE_SECONDS = 0.1
_SHOWN_LINES = 8
_RECOVERED = """
SELECT pg_is_in_recovery(), pg_last_xact_replay_timestamp(), (pg_last_wal_replay_lsn() - '0/0')::bigint
"""
_INVALID = "SELECT datname, oid FROM pg_database WHERE datconnlimit = -2"


def write_target(data: Path, target: dict[str, str] = _TO_ITS_END) -> None:
    """Tell PostgreSQL how far to recover; by default to the end of the backup.

    Without it, the server would go on with the timeline of the original, and both would write other log with the same
    name.
    """
    settings = _ALWAYS | target
    (data / _SETTINGS).write_text("".join(f"{name} = '{value}'\n" for name, value in settings.items()))
    (data / _SIGNAL).touch()


def recover(
    server: EmbeddedServer, address: URL, failure: Callable[[], Exception] | None = None
) -> tuple[datetime | None, int]:
    """Start a server on such data and wait; return the time of its last transaction, and where it stopped.

    Raises the errors of `EmbeddedServer.start`, or the failure of the caller.
    """
    try:
        server.start()
        found = _wait(server, address)
    except ProgramFailed as error:
        raise (failure() if failure else error) from error
    (server.data / _SETTINGS).unlink()
    return found


def _wait(server: EmbeddedServer, address: URL) -> tuple[datetime | None, int]:
    conninfo = make_conninfo(readable(address), **without_environment(address))
    while True:
        try:
            with psycopg.connect(conninfo) as connection:
                row: Any = connection.execute(_RECOVERED).fetchone()
                if not row[0]:
                    return row[1], int(row[2])
        except psycopg.OperationalError:
            # It takes no connection before it has recovered.
            if not server.is_running:
                lines = server.log.read_text(errors="replace").splitlines()[-_SHOWN_LINES:]
                output = "\n".join(f"  {line}" for line in lines)
                raise ProgramFailed(action="recovering from the backup", output=output, log=server.log) from None
        time.sleep(_PAUSE_SECONDS)


def invalid_databases(address: URL) -> dict[str, int]:
    """Return the databases of a server whose removal has begun, with their numbers."""
    with psycopg.connect(make_conninfo(readable(address), **without_environment(address))) as connection:
        return dict(connection.execute(_INVALID).fetchall())
