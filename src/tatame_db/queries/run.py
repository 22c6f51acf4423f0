"""Run statements: SQL and parameters go in, rows come out.

SQLAlchemy's pool lends the connections; its layers for execution and results are bypassed. The engine makes the calls;
streams and COPY have a cursor of psycopg, and no other module of the package touches one.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, closing, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import psycopg
from sqlalchemy import Connection
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn
from typing_extensions import TypeIs

from tatame_db.database.citus import knows_citus
from tatame_db.database.driver import async_driver_connection, driver_connection
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.database.session_state import CHANGED
from tatame_db.database.streams import OpenStream
from tatame_db.queries.clauses import title
from tatame_db.queries.engine.cursors import check_parameters, cursor_name, reported
from tatame_db.queries.engine.deadline import deadline_after
from tatame_db.queries.engine.dispatch import dispatcher_of
from tatame_db.queries.engine.lean import lean_connection
from tatame_db.queries.engine.lease import LentConnection
from tatame_db.queries.engine.streams import STREAM_BATCH_ROWS, AsyncStream
from tatame_db.queries.engine.tasks import ends_at, fetch_all_committed_async
from tatame_db.queries.engine.threads import checkout, fetch_all_committed, fetch_committed, fetch_in_session
from tatame_db.queries.errors import TargetInvalid

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from sqlalchemy import PoolProxiedConnection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

    from tatame_db.queries.engine.plan import Statement
    from tatame_db.queries.errors import Outcome

T = TypeVar("T")
SyncTarget: TypeAlias = "Database | Session | Connection"
AsyncTarget: TypeAlias = "AsyncDatabase | AsyncSession | AsyncConnection"
Values: TypeAlias = "dict[str, Any]"
"""The parameters of a statement, by name."""


def is_sync(target: SyncTarget | AsyncTarget) -> TypeIs[SyncTarget]:
    """Return whether results of a target are returned; those of the others are awaited.

    Raises `TargetInvalid` for anything else, which would make a coroutine that does nothing.
    """
    if isinstance(target, Database | Session | Connection):
        return True
    # SQLAlchemy's classes for asyncio have it; importing them here would load greenlet for sync code.
    if isinstance(target, AsyncDatabase) or hasattr(target, "run_sync"):
        return False
    raise TargetInvalid(received=title(target), is_factory=hasattr(target, "kw") and callable(target))


def has_citus(target: SyncTarget | AsyncTarget) -> bool | None:
    """Return whether the database of a target has Citus; `None` before its first connection."""
    if isinstance(target, Database | AsyncDatabase):
        return knows_citus(target.engine.dialect)
    lent: Any = target
    return knows_citus(lent.get_bind().dialect if hasattr(lent, "get_bind") else lent.dialect)


def meet(target: SyncTarget, statement: Statement[Any], deadline_ms: int | None = None) -> None:
    """Connect, so that `has_citus` knows the database; raises what the statement would raise."""
    if isinstance(target, Database) and not target.shares_transaction:
        checkout(target, statement, deadline_after(deadline_ms)).give_back()
        return
    with _connection(target, statement):
        pass


async def meet_async(target: AsyncTarget, statement: Statement[Any], deadline_ms: int | None = None) -> None:
    """Do what `meet` does."""
    async with ends_at(deadline_after(deadline_ms), statement), _connection_async(target, statement):
        pass


def commits_at_once(target: SyncTarget | AsyncTarget) -> bool:
    """Return whether what a call wrote is committed once it has returned."""
    if isinstance(target, Database | AsyncDatabase):
        return True
    lent: Any = getattr(target, "sync_session", None) or getattr(target, "sync_connection", None) or target
    if isinstance(lent, Session):
        # After a call it has a connection, so that nothing has to be waited for.
        lent = lent.connection()
    return bool(driver_connection(lent).autocommit)


def outcome_of_unread(target: SyncTarget | AsyncTarget, statements: int) -> Outcome:
    """Return what became of statements after `fetch_all` could not make the rows of an answer."""
    if isinstance(target, Database | AsyncDatabase):
        # Pipes have committed before rows are made. Other transactions are rolled back by the error.
        in_pipe = isinstance(target, AsyncDatabase) and dispatcher_of(target) is not None
        return "committed" if in_pipe or (statements == 1 and not target.shares_transaction) else "undone"
    if not commits_at_once(target):
        return "open"
    return "committed" if statements == 1 else "undone"


def _turn(connection: PoolProxiedConnection, *statements: Statement[Any]) -> AbstractContextManager[None]:
    """Wait for the turn of these statements on a connection of the test kit; on others nothing has to be waited for."""
    turn = getattr(driver_connection(connection), "turn", None)
    return turn(*(statement.sql for statement in statements)) if turn else nullcontext()


def _turn_async(connection: PoolProxiedConnection, *statements: Statement[Any]) -> AbstractAsyncContextManager[None]:
    """Do what `_turn` does."""
    turn = getattr(async_driver_connection(connection), "turn", None)
    return turn(*(statement.sql for statement in statements)) if turn else nullcontext()


def _opened(target: SyncTarget | AsyncTarget, drop_connection: Callable[[], object]) -> OpenStream:
    """Note a stream. A connection of the pool is the stream's own, and is closed if its database is."""
    if isinstance(target, Database | AsyncDatabase) and not target.shares_transaction:
        return target.streams.add(drop_connection)
    return OpenStream(None, drop_connection)


# --- Sync ------------------------------------------------------------------------------------------------------------


def fetch(target: SyncTarget, statement: Statement[T], values: Values, *, deadline_ms: int | None = None) -> list[T]:
    """Run a statement and return its rows, in the order of the server; if it returns none, the number that it wrote.

    On a `Database` it is committed at once; a session or connection lends its transaction. The deadline covers the wait
    for a connection; then the server ends the statement, and `DeadlineExceeded` is raised.
    """
    deadline = deadline_after(deadline_ms)
    if isinstance(target, Database) and not target.shares_transaction:
        return fetch_committed(target, statement, values, deadline)
    with _connection(target, statement) as connection, _turn(connection, statement):
        return fetch_in_session(connection, statement, values, deadline)


def fetch_all(
    target: SyncTarget, calls: Sequence[tuple[Statement[T], Values]], *, deadline_ms: int | None = None
) -> list[list[T]]:
    """Run statements in order, all or none, and return the rows of each.

    On a `Database` several of them form a transaction, which is committed at the end. The deadline is that of all.
    """
    deadline = deadline_after(deadline_ms)
    if isinstance(target, Database) and not target.shares_transaction:
        if len(calls) == 1:
            return [fetch_committed(target, *calls[0], deadline)]
        return fetch_all_committed(target, calls, deadline)
    with _connection(target, calls[0][0]) as connection, _turn(connection, *(statement for statement, _ in calls)):
        driver = driver_connection(connection)
        with driver.transaction() if driver.autocommit and len(calls) > 1 else nullcontext():
            return [fetch_in_session(connection, statement, values, deadline) for statement, values in calls]


def stream(target: SyncTarget, statement: Statement[T], values: Values) -> Generator[T]:
    """Run a statement and yield its rows, with one batch at a time in memory."""
    with _connection(target, statement) as connection, reported(statement, connection) as fetched:
        driver = driver_connection(connection)
        check_parameters(connection, statement, values)
        with (
            # A cursor of the server exists only inside a transaction.
            driver.transaction() if driver.autocommit else nullcontext(),
            _closed_at_end(driver.cursor(cursor_name(), row_factory=statement.row_factory)) as cursor,
            closing(_opened(target, lambda: lean_connection(connection).discard())) as opened,
        ):
            with opened:
                cursor.execute(statement.sql_bytes, values)
            fetched.number = 0
            while True:
                with opened:
                    rows = cursor.fetchmany(STREAM_BATCH_ROWS)
                if not rows:
                    break
                fetched.number += len(rows)
                fetched.pause()
                yield from rows
                fetched.resume()


@contextmanager
def _closed_at_end(cursor: psycopg.ServerCursor[T]) -> Generator[psycopg.ServerCursor[T]]:
    """Close a cursor, also if its connection was lost, which is no failure of a stream that its caller left."""
    try:
        yield cursor
    finally:
        try:
            cursor.close()
        except psycopg.OperationalError:
            if not cursor.connection.closed:
                raise
            cursor.close()


def copy(target: SyncTarget, statement: Statement[Any], rows: Iterable[Sequence[Any]]) -> int:
    """Run a COPY FROM STDIN with these rows, all or none, and return how many the server wrote."""
    with _connection(target, statement) as connection, reported(statement, connection, writes=True) as written:
        cursor = driver_connection(connection).cursor()
        with cursor.copy(statement.sql_bytes) as writer:
            for row in rows:
                writer.write_row(row)
        written.number = cursor.rowcount
    return cursor.rowcount


@contextmanager
def _connection(target: SyncTarget, statement: Statement[Any]) -> Generator[PoolProxiedConnection]:
    """Lend the connection of a session or connection, in its transaction; or one of the pool, in autocommit."""
    if isinstance(target, Session):
        if target.autoflush:
            target.flush()
        target = target.connection()
    if isinstance(target, Connection):
        yield target.connection
        return
    if target.shares_transaction:
        with target.engine.begin() as shared:
            yield shared.connection
        return
    lean = checkout(target, statement)
    try:
        yield cast("PoolProxiedConnection", lean.lent)
    finally:
        # It has none if the database was closed meanwhile.
        lean.is_changed |= lean.lent is not None and CHANGED in lean.lent.info
        lean.give_back()


# --- Async -----------------------------------------------------------------------------------------------------------


async def fetch_async(
    target: AsyncTarget, statement: Statement[T], values: Values, *, deadline_ms: int | None = None
) -> list[T]:
    """Do what `fetch` does."""
    [rows] = await fetch_all_async(target, [(statement, values)], deadline_ms=deadline_ms)
    return rows


async def fetch_all_async(
    target: AsyncTarget, calls: Sequence[tuple[Statement[T], Values]], *, deadline_ms: int | None = None
) -> list[list[T]]:
    """Do what `fetch_all` does."""
    deadline = deadline_after(deadline_ms)
    # A pipe carries the calls of others too.
    is_alone = any(statement.changes_session(values) for statement, values in calls)
    if not is_alone and isinstance(target, AsyncDatabase) and (dispatcher := dispatcher_of(target)):
        return await fetch_all_committed_async(target, dispatcher, calls, deadline)
    async with ends_at(deadline, calls[0][0]) as acquired, _connection_async(target, calls[0][0]) as connection:
        driver = async_driver_connection(connection)
        acquired(driver.autocommit)
        async with (
            driver.transaction() if driver.autocommit and len(calls) > 1 else nullcontext(),
            _turn_async(connection, *(statement for statement, _ in calls)),
        ):
            return [await _fetch_async(connection, statement, values) for statement, values in calls]


def stream_async(
    target: AsyncTarget,
    statement: Statement[T],
    values: Values,
    prepare: Callable[[], tuple[Statement[T], Values]] | None = None,
) -> AsyncStream[T]:
    """Do what `stream` does. `prepare` returns the statement and its values once the database is known."""
    again = prepare if statement.differs and has_citus(target) is None else None
    if isinstance(target, AsyncDatabase) and not target.shares_transaction:
        return AsyncStream(statement, values, LentConnection(target, statement.name), partial(_opened, target), again)
    return AsyncStream(statement, values, _connection_async(target, statement), partial(_opened, target), again)


async def copy_async(target: AsyncTarget, statement: Statement[Any], rows: Iterable[Sequence[Any]]) -> int:
    """Do what `copy` does."""
    async with _connection_async(target, statement) as connection:
        with reported(statement, connection, writes=True) as written:
            cursor = async_driver_connection(connection).cursor()
            async with cursor.copy(statement.sql_bytes) as writer:
                for row in rows:
                    await writer.write_row(row)
            written.number = cursor.rowcount
        return cursor.rowcount


async def _fetch_async(connection: PoolProxiedConnection, statement: Statement[T], values: Values) -> list[T]:
    with reported(statement, connection) as fetched:
        cursor = async_driver_connection(connection).cursor(row_factory=statement.row_factory)
        check_parameters(connection, statement, values)
        await cursor.execute(statement.sql_bytes, values)
        has_rows = statement.has_rows
        rows = statement.finished(await cursor.fetchall()) if has_rows else statement.written(cursor.rowcount)
        fetched.number = statement.number_of_rows(rows)
        return rows


@asynccontextmanager
async def _connection_async(target: AsyncTarget, statement: Statement[Any]) -> AsyncGenerator[PoolProxiedConnection]:
    """Do what `_connection` does."""
    if not isinstance(target, AsyncDatabase):
        # Loads greenlet, which only asyncio needs.
        from sqlalchemy.ext.asyncio import AsyncSession  # noqa: PLC0415

        if isinstance(target, AsyncSession):
            if target.autoflush:
                await target.flush()
            target = await target.connection()
        lent = await target.get_raw_connection()
        try:
            yield lent
        finally:
            if async_driver_connection(lent).closed:
                # Otherwise the session would fail again when it rolls back.
                await greenlet_spawn(lent.invalidate)
        return
    if target.shares_transaction:
        async with target.engine.begin() as shared:
            yield await shared.get_raw_connection()
        return
    async with LentConnection(target, statement.name) as connection:
        yield connection
