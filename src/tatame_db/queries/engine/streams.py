"""Streams of asyncio: the rows of a statement, with one batch at a time in memory."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

import psycopg

from tatame_db.database.driver import async_driver_connection
from tatame_db.queries.engine.cursors import check_parameters, cursor_name, reported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy import PoolProxiedConnection

    from tatame_db.database.streams import OpenStream
    from tatame_db.queries.engine.plan import Statement

T = TypeVar("T")

STREAM_BATCH_ROWS = 1_000


class AsyncStream(Generic[T]):
    """The rows of a statement, as an async iterator. `aclose` returns its connection before the last row.

    It is no async generator: Python ends one that its caller leaves in a task of its own, which `asyncio.run` cancels
    when it ends. This one closes its connection when the caller leaves it.
    """

    def __init__(
        self,
        statement: Statement[T],
        values: dict[str, Any],
        lent: AbstractAsyncContextManager[PoolProxiedConnection],
        opened: Callable[[Callable[[], object]], OpenStream],
        prepare: Callable[[], tuple[Statement[T], dict[str, Any]]] | None = None,
    ) -> None:
        self._rows: Iterator[T] = iter(())
        self._source: _Source[T] | None = _Source(statement, values, lent, opened, prepare)
        self._is_running = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Return the next row. Raises `DatabaseClosed` if the database was closed before the last one."""
        for row in self._rows:
            return row
        self._rows = iter(await self._next_batch())
        for row in self._rows:
            return row
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the stream, and return its connection; a second call does nothing."""
        self._start()
        self._rows, source, self._source = iter(()), self._source, None
        try:
            if source is not None:
                await source.close(GeneratorExit())
        finally:
            self._is_running = False

    def __del__(self) -> None:
        if (source := self._source) is None or source.loop is None:
            return
        # This may be another thread, or the middle of another step of the loop, to which the connection belongs.
        if source.loop.is_running():
            with suppress(RuntimeError):
                source.loop.call_soon_threadsafe(source.abandon)
                return
        source.abandon()

    async def _next_batch(self) -> list[T]:
        if self._source is None:
            return []
        self._start()
        source = self._source
        try:
            rows = await source.next_batch()
            if not rows:
                self._source = None
                await source.close(None)
        except BaseException as raised:
            if self._source is not None:
                self._source = None
                await source.close(raised)
            raise
        finally:
            self._is_running = False
        return rows

    def _start(self) -> None:
        if self._is_running:
            raise RuntimeError("this stream already waits for rows, in another task")
        self._is_running = True


class _Source(Generic[T]):
    """The cursor of a stream, and what is open while it is."""

    def __init__(
        self,
        statement: Statement[T],
        values: dict[str, Any],
        lent: AbstractAsyncContextManager[PoolProxiedConnection],
        opened: Callable[[Callable[[], object]], OpenStream],
        prepare: Callable[[], tuple[Statement[T], dict[str, Any]]] | None = None,
    ) -> None:
        self._statement = statement
        self._values = values
        self._lent = lent
        self._opened = opened
        self._prepare = prepare
        """Returns the statement and its values again, for the database as its first connection found it."""
        self._held = AsyncExitStack()
        self._cursor: psycopg.AsyncServerCursor[T] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop on which it was opened."""

    async def next_batch(self) -> list[T]:
        if self._cursor is None:
            self._cursor = await self._open()
        else:
            self._fetched.resume()
        with self._stream:
            rows = await self._cursor.fetchmany(STREAM_BATCH_ROWS)
        self._fetched.number = (self._fetched.number or 0) + len(rows)
        if rows:
            self._fetched.pause()
        return rows

    async def _open(self) -> psycopg.AsyncServerCursor[T]:
        held = self._held
        connection = await held.enter_async_context(self._lent)
        if self._prepare is not None:
            self._statement, self._values = self._prepare()
        statement = self._statement
        self._report = reported(statement, connection)
        self._fetched = held.enter_context(self._report)
        driver = async_driver_connection(connection)
        if driver.autocommit:
            # A cursor of the server exists only inside a transaction. `driver.transaction()` is an async generator.
            await held.enter_async_context(psycopg.AsyncTransaction(driver))
        cursor = driver.cursor(cursor_name(), row_factory=statement.row_factory)
        await held.enter_async_context(cursor)
        check_parameters(connection, statement, self._values)
        self._stream = self._opened(connection.invalidate)
        held.callback(self._stream.close)
        self.loop = asyncio.get_running_loop()
        with self._stream:
            await cursor.execute(statement.sql_bytes, self._values)
        return cursor

    async def close(self, raised: BaseException | None) -> None:
        """Close the cursor; raises the error that the caller receives for what was raised, if it is another one."""
        kind = None if raised is None else type(raised)
        await self._held.__aexit__(kind, raised, None if raised is None else raised.__traceback__)

    def abandon(self) -> None:
        """Close the connection without waiting, if it belongs to the stream; otherwise its transaction goes on."""
        self._stream.drop()
        self._report.__exit__(GeneratorExit, GeneratorExit(), None)
        # Otherwise psycopg warns of a cursor that is not closed.
        cast("Any", self._cursor)._closed = True
