"""The sessions that a statement waits for, looked up by another connection while it waits."""

from __future__ import annotations

import contextlib
from threading import Event, Thread
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tatame_db.database.pool import Database
from tatame_db.errors import TatameError

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import URL

# Without the text of a query, which may contain values.
_BLOCKERS = text(
    "SELECT concat('pid ', pid, ' (', coalesce(nullif(application_name, ''), 'no name'), ', user ', usename, ', ',"
    " coalesce(state, backend_type), ' for ',"
    " extract(epoch FROM now() - coalesce(state_change, backend_start))::integer, ' s)')"
    " FROM pg_stat_activity WHERE pid = ANY(pg_blocking_pids(:pid)) ORDER BY pid"
)


@contextlib.contextmanager
def blockers(address: URL, pid: int, after_seconds: float) -> Generator[list[str]]:
    """Yield a list that names, once the block took so long, the sessions for which the server process `pid` waits."""
    found: list[str] = []
    ended = Event()

    def watch() -> None:
        if ended.wait(after_seconds):
            return
        # Without another connection, or the right to look, it stays empty.
        with (
            contextlib.suppress(DBAPIError, TatameError),
            Database(address, pool_size=1) as database,
            database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        ):
            while not ended.is_set():
                if now := list(connection.scalars(_BLOCKERS, {"pid": pid})):
                    found[:] = now
                # Often enough for a wait of twice this time, and rarely enough for a migration that takes an hour.
                ended.wait(after_seconds)

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()
