"""The lock on schema changes: one run at a time works on a database, and a killed run is undone by the server."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db.database.address import readable
from tatame_db.database.driver import driver_connection
from tatame_db.database.pool import Database
from tatame_db.errors import TatameError, fact

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

LOCK_TIMEOUT_MS = 5_000
# A migration is tried again, and whatever else needs the table waits behind it meanwhile.
MIGRATION_LOCK_TIMEOUT_MS = 500
STATEMENT_TIMEOUT_MS = 600_000
# The key is arbitrary; it only has to differ from the advisory locks of the application.
LOCK_KEY = 0x7461_7461_6D65


@fact
class DirectAddressNeeded(TatameError):
    """The address leads to a pooler, and the command needs a session of the server for itself."""

    address: URL
    what = "{where} is a pooler, and a schema change or a move needs a session of PostgreSQL for itself"
    means = "Nothing was changed, and no setting of the pooler's sessions either."
    fix = (
        "set `DATABASE_URL` to the server's own address, usually on port 5432; that of a Supabase project has the host"
        " `db.<project>.supabase.co`"
    )

    @property
    def where(self) -> str:
        """The address, without a password."""
        return readable(self.address)


@dataclass(frozen=True)
class Retry:
    """A step did not get a lock in time and was undone; it runs again after the pause."""

    revision: str
    pause_seconds: float
    blockers: list[str]
    """The sessions that held the lock: process, application, user and state; empty if the role may not see them."""


def ignore(*_: object) -> None:
    """Do nothing: the default of every callback."""


@dataclass(frozen=True)
class Timeouts:
    """The time limits of a schema change, and the callbacks that report a delay.

    By default a migration waits for a lock for 0.5 s at a time, and is tried ten times within half a minute; a push,
    which is not tried again, waits for 5 s. `on_wait` is called once if another schema change runs, `on_retry` before
    each pause.

        >>> evolve.migrate(engine, timeouts=evolve.Timeouts(lock_timeout_ms=1_000))
    """

    lock_timeout_ms: int | None = None
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS
    on_wait: Callable[[], None] = ignore
    on_retry: Callable[[Retry], None] = ignore


@contextlib.contextmanager
def exclusive(
    engine: Engine | AsyncEngine, timeouts: Timeouts, lock_timeout_ms: int = LOCK_TIMEOUT_MS
) -> Generator[Connection]:
    """Open a new connection that holds the lock on schema changes; wait while another connection holds it.

    `lock_timeout_ms` applies if `timeouts` has none. The connection is closed at the end, which releases the lock.
    Raises `DirectAddressNeeded`.
    """
    with Database(engine.url) as database, database.engine.connect() as connection:
        if connection.info.get("pooled"):
            # In transaction mode the lock and the settings would stay in a session that other clients share. No query
            # tells which mode it is.
            raise DirectAddressNeeded(address=engine.url)
        undo_when_killed(connection)
        if not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": LOCK_KEY}):
            timeouts.on_wait()
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": LOCK_KEY})
        connection.execute(text(f"SET lock_timeout = {timeouts.lock_timeout_ms or lock_timeout_ms}"))
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
    # Some servers end idle sessions, and this one idles while a person is asked or another server is read. And it may
    # wait for the lock for as long as another move takes.
    for name in ("idle_session_timeout", "idle_in_transaction_session_timeout", "statement_timeout", "lock_timeout"):
        connection.execute(text(f"SET {name} = 0"))
    if driver_connection(connection).info.server_version >= 170_000:
        connection.execute(text("SET transaction_timeout = 0"))
