"""Sessions whose commits are rolled back at the end of a test."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from psycopg.pq import TransactionStatus
from sqlalchemy import event
from sqlalchemy.orm import Session

from tatame_db.database.driver import driver_connection
from tatame_db.database.pool import AsyncDatabase, Database

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncSession


class RollbackSession(Session):
    """A session inside a transaction that `discard` rolls back; `commit()` only ends a savepoint.

    The transaction begins with the first statement. With asyncio this is in the event loop of the test.
    """

    _outer: Connection | None = None

    def get_bind(self, *arguments: Any, **options: Any) -> Connection:
        """Return the connection with the outer transaction."""
        if self._outer is None:
            self._outer = cast("Engine", super().get_bind(*arguments, **options)).connect()
            self._outer.begin()
        return self._outer

    def discard(self) -> None:
        """Close the session and roll back everything that it did."""
        if self._outer is None:
            return
        if _is_interrupted(self._outer):
            # A rollback would wait for the statement.
            self._outer.invalidate()
        try:
            self.close()
        finally:
            self._outer.close()


def _is_interrupted(connection: Connection) -> bool:
    """Return whether the test ended during a statement, as it does when its event loop is closed with tasks in it."""
    if connection.invalidated:
        return False
    return driver_connection(connection).info.transaction_status == TransactionStatus.ACTIVE


def rollback_session(database: Database) -> RollbackSession:
    """Return a session with the options of `database.session`; end it with `discard`."""
    return RollbackSession(**_session_options(database))


class LoopFreeDatabase(AsyncDatabase):
    """A database for asyncio whose connections work in any event loop, because each test may run in its own."""

    def __init__(self, address: URL) -> None:
        super().__init__(address)
        event.listen(self.engine.sync_engine, "checkout", _renew_locks)

    def rollback_session(self) -> AsyncSession:
        """Return a session with the options of `database.session`; end it with `discard`."""
        from sqlalchemy.ext.asyncio import AsyncSession  # noqa: PLC0415, as `AsyncDatabase` does it

        return AsyncSession(**_session_options(self), sync_session_class=RollbackSession)

    async def discard(self, session: AsyncSession) -> None:
        """Close the session and roll back everything that it did, in any event loop."""
        await session.run_sync(lambda sync_session: cast("RollbackSession", sync_session).discard())


def _renew_locks(connection: Any, *_: object) -> None:
    # These two locks bind to the event loop that first awaits them; nothing else in a connection does.
    connection._execute_mutex = asyncio.Lock()
    connection.driver_connection.lock = asyncio.Lock()


def _session_options(database: Database | AsyncDatabase) -> dict[str, Any]:
    return database.session.kw | {"join_transaction_mode": "create_savepoint"}
