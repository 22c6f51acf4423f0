"""The pools of both faces: how they connect, and what a caller learns when they cannot."""

from __future__ import annotations

import asyncio
import logging
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import psycopg
from sqlalchemy import exc
from sqlalchemy.pool import AsyncAdaptedQueuePool

from tatame_db.database.errors import ConnectionsExhausted
from tatame_db.database.failures import connection_error, is_lost
from tatame_db.database.kept import KeepingPool
from tatame_db.database.silence import end_setup, patience

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import URL, Dialect, PoolProxiedConnection
    from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

    from tatame_db.database.idle import IdleConnections

C = TypeVar("C", bound="psycopg.AsyncConnection[Any]")


@dataclass(frozen=True)
class PoolStatistics:
    """The connections of a pool at one moment."""

    size: int
    """The largest number of connections."""
    in_use: int
    """Connections that sessions and queries use."""
    idle: int
    """Open connections that wait for a use."""
    waiting: int
    """Sessions and queries that wait for a connection because all are in use."""


waiting_seconds: ContextVar[float | None] = ContextVar("waiting_seconds", default=None)
"""How long a call waits for a free connection, if it has a deadline."""


# Both faces log below SQLAlchemy's pools, where an app sets their level.
_LOGGER = "sqlalchemy.pool.tatame_db"


class DatabasePool(KeepingPool):
    """A pool whose failures are errors of this package, for sessions and queries alike."""

    _sqla_logger_namespace = _LOGGER
    address: URL
    variable: str
    """The setting that has the address."""
    idle: IdleConnections
    waiting = 0
    """The number of callers that wait because all connections are in use."""

    @property
    def lent_and_idle(self) -> int:
        """The number of connections that queries hold, and that no call uses."""
        return len(self.kept)

    @property
    def _timeout(self) -> float:
        # SQLAlchemy waits for as long as this attribute says, which `__init__` assigns, and has no option of a call.
        seconds = waiting_seconds.get()
        return self._pool_timeout if seconds is None else seconds

    @_timeout.setter
    def _timeout(self, seconds: float) -> None:
        self._pool_timeout = seconds

    def connect(self) -> PoolProxiedConnection:
        """Lend a connection. Raises `DatabaseUnavailable`."""
        try:
            return super().connect()
        except exc.TimeoutError:
            raise ConnectionsExhausted(address=self.address, size=self.size(), seconds=self._timeout) from None
        except (psycopg.Error, exc.DBAPIError) as error:
            ended = end_setup()
            if ended is not None and (silence := ended.error(self.address, self.variable)):
                raise silence from error
            # SQLAlchemy asks a new server for its version and more, and wraps the failures of these statements.
            cause = error.orig if isinstance(error, exc.DBAPIError) and _refuses_all(error) else error
            if isinstance(cause, psycopg.Error):
                raise connection_error(self.address, cause, self.variable) from error
            raise
        finally:
            end_setup()

    def _do_get(self) -> ConnectionPoolEntry:
        if self.checkedin() or self.checkedout() < self.size():
            return super()._do_get()
        # The lock of the pool's own counter, which is held for no longer.
        with self._overflow_lock:
            self.waiting += 1
        try:
            return super()._do_get()
        finally:
            with self._overflow_lock:
                self.waiting -= 1

    def belong_to(self, address: URL, variable: str, idle: IdleConnections) -> None:
        """Serve this address, and let the idle connections be closed."""
        self.address, self.variable, self.idle = address, variable, idle
        self.kept.closer, idle.close_kept = idle, self.kept.close_expired

    def recreate(self) -> QueuePool:
        """Return an empty pool with the same options, as `Engine.dispose` needs it."""
        pool = super().recreate()
        assert isinstance(pool, DatabasePool)  # noqa: S101, for the type checker
        pool.belong_to(self.address, self.variable, self.idle)
        return pool


def _is_news(record: logging.LogRecord) -> bool:
    # When a connection is returned whose loss SQLAlchemy did not see, it logs a traceback of the ROLLBACK. It then
    # discards the connection, which it logs at INFO with the reason.
    return not (record.exc_info and is_lost(record.exc_info[1]))


logging.getLogger(_LOGGER).addFilter(_is_news)


def _refuses_all(error: exc.DBAPIError) -> bool:
    """Return whether a statement failed with its connection, reached a pooler that runs none, or took too long."""
    ends = (psycopg.errors.ProtocolViolation, psycopg.errors.QueryCanceled)
    return error.connection_invalidated or isinstance(error.orig, ends)


class AsyncDatabasePool(DatabasePool, AsyncAdaptedQueuePool):
    """The same for asyncio."""

    _queue_class = AsyncAdaptedQueuePool._queue_class  # type: ignore[assignment]  # its tasks wait elsewhere


async def connect_async(*arguments: Any, **options: Any) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    """Connect, and leave no session on the server if the caller is cancelled meanwhile."""
    kind = psycopg.AsyncConnection if patience.get() is None else _PatientAsyncConnection
    return await connect_as(kind, *arguments, **options)


def connect_patiently(
    _: Dialect, __: object, arguments: list[Any], parameters: dict[str, Any]
) -> psycopg.Connection[Any] | None:
    """Connect within the time of the calling reader; `None` leaves it to SQLAlchemy."""
    return None if patience.get() is None else _PatientConnection.connect(*arguments, **parameters)


class _Patient:
    """psycopg itself allows each host two seconds at least."""

    @classmethod
    def _connect_gen(cls, *arguments: Any, **options: Any) -> Generator[Any, Any, Any]:
        limit = patience.get()
        made = super()._connect_gen(*arguments, **options)  # type: ignore[misc]  # psycopg's
        connecting = cast("Generator[Any, Any, Any]", made)
        if limit is None:
            return (yield from connecting)
        until = time.monotonic() + limit.of_host
        try:
            waiting_for = next(connecting)
            while True:
                ready = yield waiting_for
                if time.monotonic() >= until:
                    connecting.close()
                    raise psycopg.errors.ConnectionTimeout("connection timeout expired")
                waiting_for = connecting.send(ready)
        except StopIteration as done:
            return done.value


class _PatientConnection(_Patient, psycopg.Connection[Any]):
    """Does this for the sync face."""


class _PatientAsyncConnection(_Patient, psycopg.AsyncConnection[Any]):
    """Does this for asyncio."""


async def connect_as(kind: type[C], *arguments: Any, **options: Any) -> C:
    """Connect as `connect_async` does, with a class of its own.

    psycopg forgets a half-made connection if the caller is cancelled. The server keeps its session until the garbage
    collector finds it.
    """
    connecting = asyncio.ensure_future(kind.connect(*arguments, **options))
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        connecting.add_done_callback(_close_unused)
        raise


def _close_unused(connecting: asyncio.Future[C]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        # Nothing can be awaited in a callback; this sends the farewell and closes the socket.
        connecting.result().pgconn.finish()
