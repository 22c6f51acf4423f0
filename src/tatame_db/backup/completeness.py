"""The time up to which a backup is complete, by the clock of the server that reported the commits."""

from __future__ import annotations

import os
from datetime import UTC
from typing import TYPE_CHECKING, Any

from tatame_db.backup.programs import run
from tatame_db.backup.waldump import commit_time
from tatame_db.server.wheel import installed_programs

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path
    from typing import LiteralString

    from tatame_db.backup.contents import Connection

# What a standby shows is as old as the last commit that it has replayed; after a restart, as its last checkpoint.
_REPLAYED = """
SELECT coalesce(pg_last_xact_replay_timestamp(), (SELECT checkpoint_time FROM pg_control_checkpoint()))
"""
_CLOCK = "SELECT clock_timestamp()"


def complete_now(connection: Connection) -> datetime:
    """Return a time before which every commit is visible in each snapshot that is taken from now on."""
    row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
    return _time(connection, _REPLAYED if row and row[0] else _CLOCK)


def server_clock(connection: Connection) -> datetime:
    """Return the time of the server."""
    return _time(connection, _CLOCK)


def _time(connection: Connection, query: LiteralString) -> datetime:
    row: Any = connection.execute(query).fetchone()
    moment: datetime = row[0]
    return moment.astimezone(UTC)


def last_commit(data: Path, wal: dict[str, Any]) -> datetime | None:
    """Return the time of the last commit in a range of a copy's write-ahead log; `None` if there is none.

    A server takes the time of a commit before it writes the commit. So what it has reported before that time was
    written earlier, and is in the copy too. Raises `ProgramRejected`.
    """
    found: list[datetime] = []

    def note(line: str) -> None:
        if moment := commit_time(line):
            found[:] = [moment]

    arguments = ["--path=pg_wal", "--rmgr=Transaction", f"--timeline={wal['Timeline']}"]
    arguments += [f"--start={wal['Start-LSN']}", f"--end={wal['End-LSN']}"]
    environment = dict(os.environ) | {"LC_ALL": "C", "TZ": "UTC"}
    run(installed_programs() / "pg_waldump", arguments, environment, on_line=note, directory=data)
    return found[0] if found else None
