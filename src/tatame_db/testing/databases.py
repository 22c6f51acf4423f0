"""The databases of the test kit, sync and async, whose connections all share the transaction of a test."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

from tatame_db.database.pool import CLOSE_TIMEOUT_SECONDS, AsyncDatabase, Database
from tatame_db.testing.connections import AsyncSharedConnection, SharedConnection
from tatame_db.testing.shared import SharedTransaction

if TYPE_CHECKING:
    from sqlalchemy import URL, Dialect, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

    from tatame_db.database.observer import Observer


class RolledBackDatabases:
    """A `Database` and an `AsyncDatabase` whose connections all share one transaction, which `end` rolls back.

    Both can be used again after `end`. Rows that were committed in `database` are visible to them.
    """

    def __init__(self, database: Database) -> None:
        self._transaction = SharedTransaction(database)
        self.database = RolledBackDatabase(database, self._transaction)
        self._async_database: RolledBackAsyncDatabase | None = None

    @property
    def async_database(self) -> RolledBackAsyncDatabase:
        """The database for asyncio, made when it is first needed, because it loads greenlet."""
        if self._async_database is None:
            self._async_database = RolledBackAsyncDatabase(self.database, self._transaction)
        return self._async_database

    def end(self) -> None:
        """Roll back what was done with either database; sessions that are still open cannot be used any more."""
        self._transaction.end()
        self.database.forget()
        if self._async_database is not None:
            self._async_database.forget()

    def close(self) -> None:
        """Close the connection; a later use opens another one."""
        self.end()
        self._transaction.close()


class RolledBackDatabase(Database):
    """A `Database` whose commits end savepoints."""

    shares_transaction = True

    def __init__(self, database: Database, transaction: SharedTransaction) -> None:
        self._transaction = transaction
        super().__init__(database.address)

    def close(self, timeout_seconds: float = CLOSE_TIMEOUT_SECONDS) -> None:
        """Do nothing: an app may close its database before the test has read the rows that it wrote."""

    def forget(self) -> None:
        """Forget the connections and the `on_statement` functions of a test."""
        self.engine.dispose(close=False)
        self.observer.clear()

    def _listen(self, engine: Engine) -> None:
        event.listen(engine, "do_connect", self._connect)
        super()._listen(engine)

    def _connect(self, _: Dialect, __: object, ___: object, options: dict[str, Any]) -> SharedConnection:
        return SharedConnection(self._transaction, options["context"])

    def _prepare(self, connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:  # noqa: ARG002, the event's
        entry.info.update(_shared_info(self.observer, self.address))

    def _make_ready(self, connection: Any, entry: ConnectionPoolEntry, _: object) -> None:  # noqa: ARG002, the event's
        connection.commit_explicitly()


class RolledBackAsyncDatabase(AsyncDatabase):
    """The async version of `RolledBackDatabase`; it works in every event loop, also in several that run at once."""

    shares_transaction = True

    def __init__(self, database: Database, transaction: SharedTransaction) -> None:
        self._transaction = transaction
        super().__init__(database.address)

    async def close(self, timeout_seconds: float = CLOSE_TIMEOUT_SECONDS) -> None:
        """Do nothing: an app may close its database before the test has read the rows that it wrote."""

    def forget(self) -> None:
        """Forget the connections and the `on_statement` functions of a test."""
        self.engine.sync_engine.dispose(close=False)
        self.observer.clear()

    def _listen(self, engine: Engine) -> None:
        event.listen(engine, "do_connect", self._connect)
        super()._listen(engine)

    def _connect(self, dialect: Dialect, _: object, __: object, options: dict[str, Any]) -> Any:
        from sqlalchemy.dialects.postgresql.psycopg import AsyncAdapt_psycopg_connection  # noqa: PLC0415, as `AsyncDatabase` does it

        connection: Any = AsyncSharedConnection(self._transaction, options["context"])
        return AsyncAdapt_psycopg_connection(dialect.dbapi, connection)

    def _prepare(self, connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:  # noqa: ARG002, the event's
        entry.info.update(_shared_info(self.observer, self.address))

    def _make_ready(self, connection: Any, entry: ConnectionPoolEntry, _: object) -> None:  # noqa: ARG002, the event's
        # These two locks bind to the event loop that first waits for them; nothing else in a connection does.
        connection._execute_mutex = asyncio.Lock()
        connection.driver_connection.lock = asyncio.Lock()
        connection.driver_connection.commit_explicitly()


def _shared_info(observer: Observer, address: URL) -> dict[str, Any]:
    """Return what a query wants to know of a connection: several use one session here, as behind a pooler."""
    return {"observer": observer, "address": address, "pooled": True}
