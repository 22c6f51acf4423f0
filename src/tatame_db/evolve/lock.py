"""The lock on schema changes: one run at a time works on a database, and a killed run is undone by the server."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db.database.pool import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from sqlalchemy import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 600_000
# The key is arbitrary; it only has to differ from the advisory locks of the application.
LOCK_KEY = 0x7461_7461_6D65


@dataclass(frozen=True)
class Retry:
    """A step did not get a lock in time and was undone; it runs again after the pause."""

    revision: str
    pause_seconds: float


def ignore(*_: object) -> None:
    """Do nothing: the default of every callback."""


@dataclass(frozen=True)
class Timeouts:
    """The time limits of a schema change, and the callbacks that report a delay.

    `on_wait` is called once if another schema change holds the lock, `on_retry` before each pause.

        >>> evolve.migrate(engine, timeouts=evolve.Timeouts(lock_timeout_ms=1_000))
    """

    lock_timeout_ms: int = LOCK_TIMEOUT_MS
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS
    on_wait: Callable[[], None] = ignore
    on_retry: Callable[[Retry], None] = ignore


@contextlib.contextmanager
def exclusive(engine: Engine | AsyncEngine, timeouts: Timeouts) -> Generator[Connection]:
    """Open a new connection that holds the lock on schema changes; wait while another connection holds it.

    The connection is closed at the end, which releases the lock.
    """
    with Database(engine.url) as database, database.engine.connect() as connection:
        undo_when_killed(connection)
        if not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": LOCK_KEY}):
            timeouts.on_wait()
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": LOCK_KEY})
        connection.execute(text(f"SET lock_timeout = {timeouts.lock_timeout_ms}"))
        connection.execute(text(f"SET statement_timeout = {timeouts.statement_timeout_ms}"))
        connection.commit()
        try:
            yield connection
        finally:
            # The lock and the settings belong to the session, so they must not go back to a pool.
            connection.invalidate()


def undo_when_killed(connection: Connection) -> None:
    """Make the server notice within a second that this process is dead, undo its transaction and free its locks."""
    connection.execute(text("SET client_connection_check_interval = '1s'"))
    # Some servers end idle sessions, and this one idles while a person is asked or another server is read.
    connection.execute(text("SET idle_session_timeout = 0"))
