"""Connections of psycopg, sync and async, that share one transaction.

psycopg keeps one `PGconn` of libpq in each connection object. Here many objects keep the same one, and wait for their
turn with each statement. A statement that goes through a cursor is marked with its SQL, which tells whether it writes.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import psycopg
from psycopg import IsolationLevel
from psycopg.adapt import AdaptersMap
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.rows import tuple_row

from tatame_db.database.errors import TransactionAborted
from tatame_db.testing.turns import TransactionControlled

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from psycopg.abc import AdaptContext, PQGen
    from psycopg.pq.abc import PGconn

    from tatame_db.testing.shared import SharedTransaction

T = TypeVar("T")


@dataclass(frozen=True)
class Marked(Generic[T]):
    """Steps that a connection waits for, and the SQL that tells whether they write."""

    steps: PQGen[T]
    sql: str | None = None
    """`None` for steps that may write."""
    keeps: bool = False
    alone: bool = True
    """Whether they need a turn; without one, they send nothing."""

    def __iter__(self) -> PQGen[T]:
        """Return the steps, for psycopg's `yield from`."""
        return self.steps


class SharedMixin:
    """What a sync and an async connection on a shared transaction have in common."""

    shared: SharedTransaction
    failed: bool
    _autocommit: bool
    _num_transactions: int
    _detached: bool
    pgconn: PGconn

    @property
    def commits_itself(self) -> bool:
        """Whether each statement is committed on its own."""
        return self._autocommit and not self._num_transactions

    @property
    def closed(self) -> bool:
        """Whether this connection is closed; the one that is shared stays open."""
        return self._detached or self.pgconn.status == ConnStatus.BAD

    def check(self) -> None:
        """Raise an error if this connection can run no statement, as PostgreSQL and psycopg would."""
        if self._detached:
            raise psycopg.OperationalError("the connection is closed")
        if self.failed:
            raise psycopg.errors.InFailedSqlTransaction(
                "current transaction is aborted, commands ignored until end of transaction block"
            )

    def leave_turn(self) -> None:
        """End the turn, unless an answer is still on the way: then the statement was interrupted, and it never ends."""
        if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
            self.shared.turns.leave()

    def commit_explicitly(self) -> None:
        """Leave autocommit, which needs no waiting here."""
        self._autocommit = False

    def pipeline(self) -> Any:
        """Raise `TransactionControlled`: other connections would find the pipeline open in their turns."""
        raise TransactionControlled(problem="pipeline mode")

    def leave(self) -> None:
        """Roll back, and let go of the shared connection without closing it."""
        self.shared.roll_back(self)
        self._detached = True

    def _commit_gen(self) -> Any:
        if self.shared.turns.writer is not self:
            failed = self.failed
            self.shared.turns.end_unit(self)
            if failed:
                raise TransactionAborted
            return Marked(_nothing(), alone=False)
        if self.pgconn.transaction_status == TransactionStatus.INERROR:
            self.shared.roll_back(self)
            raise TransactionAborted
        return Marked(self.shared.commit(self))

    def _set_autocommit_gen(self, value: bool) -> Any:
        self._autocommit = bool(value)
        return Marked(_nothing(), alone=False)

    def _set_isolation_level_gen(self, value: IsolationLevel | None) -> Any:
        if value not in (None, IsolationLevel.READ_COMMITTED):
            raise TransactionControlled(problem=f"the isolation level {IsolationLevel(value).name.replace('_', ' ')}")
        return Marked(_nothing(), alone=False)

    def _set_read_only_gen(self, value: bool | None) -> Any:
        if value:
            raise TransactionControlled(problem="a read-only transaction")
        return Marked(_nothing(), alone=False)


def _nothing() -> PQGen[None]:
    yield from ()


def _marked(steps: Any) -> Marked[Any]:
    return cast("Any", steps) if isinstance(steps, Marked) else Marked[Any](steps)


def _result(steps: PQGen[T]) -> T:
    """Return the result of steps that wait for nothing."""
    try:
        next(steps)
    except StopIteration as end:
        return cast("T", end.value)
    raise AssertionError("these steps were not expected to wait")


def _join(connection: Any, shared: SharedTransaction, context: AdaptContext) -> None:
    connection.shared, connection.failed, connection._detached = shared, False, False
    shared.connections.add(connection)
    connection._adapters = AdaptersMap(context.adapters)
    # psycopg warns of connections that are not closed, unless they are a pool's.
    connection._pool = None
    # Each connection numbers its prepared statements, and the server has one list of them.
    connection.prepare_threshold = None


class _CursorMixin:
    """Marks each statement with its SQL."""

    def _execute_gen(self, query: Any, *arguments: Any, **options: Any) -> Any:
        steps: Any = cast("Any", super())._execute_gen(query, *arguments, **options)
        return Marked[Any](steps, _text(query))


class _ServerCursorMixin:
    """Marks the statements of a cursor of the server, which outlives the turns of others."""

    def _declare_gen(self, query: Any, *arguments: Any, **options: Any) -> Any:
        steps: Any = cast("Any", super())._declare_gen(query, *arguments, **options)
        return Marked[Any](steps, _text(query), keeps=True)

    def _fetch_gen(self, num: int | None) -> Any:
        return Marked[Any](cast("Any", super())._fetch_gen(num), "SELECT")

    def _scroll_gen(self, value: int, mode: str) -> Any:
        return Marked[Any](cast("Any", super())._scroll_gen(value, mode), "SELECT")

    def _close_gen(self) -> Any:
        # A rollback may have closed the cursor. Unless psycopg takes it for another's, it does not look.
        self._described = False
        return Marked[Any](cast("Any", super())._close_gen(), "SELECT")


def _text(query: Any) -> str | None:
    if isinstance(query, bytes):
        return query.decode()
    return query if isinstance(query, str) else None


class _Cursor(_CursorMixin, psycopg.Cursor[Any]):
    def executemany(self, query: Any, params_seq: Any, *, returning: bool = False) -> None:
        """Execute a statement with each parameter, without psycopg's pipeline: in autocommit it would span commits."""
        with self._conn.lock:
            self._conn.wait(self._executemany_gen_no_pipeline(query, params_seq, returning))


class _ServerCursor(_ServerCursorMixin, psycopg.ServerCursor[Any]):
    pass


class _AsyncCursor(_CursorMixin, psycopg.AsyncCursor[Any]):
    async def executemany(self, query: Any, params_seq: Any, *, returning: bool = False) -> None:
        """Do what `_Cursor.executemany` does."""
        async with self._conn.lock:
            await self._conn.wait(self._executemany_gen_no_pipeline(query, params_seq, returning))


class _AsyncServerCursor(_ServerCursorMixin, psycopg.AsyncServerCursor[Any]):
    pass


class SharedConnection(SharedMixin, psycopg.Connection[Any]):
    """A connection of psycopg on a shared transaction."""

    def __init__(self, shared: SharedTransaction, context: AdaptContext) -> None:
        psycopg.Connection.__init__(self, shared.pgconn, tuple_row)
        _join(self, shared, context)
        self.cursor_factory, self.server_cursor_factory = _Cursor, _ServerCursor

    def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        """Wait for the turn of a statement, and run it."""
        marked = _marked(gen)
        if not marked.alone:
            return _result(marked.steps)
        self.check()
        self.shared.turns.enter(self, marked.sql)
        try:
            result = super().wait(self.shared.in_turn(self, marked.steps, keeps=marked.keeps), *arguments, **options)
        except BaseException:
            self.leave_turn()
            raise
        # A COPY is on its way between two turns.
        self.shared.turns.leave()
        return result

    @contextmanager
    def turn(self, *statements: str) -> Generator[None]:
        """Let code use libpq's connection without interruption, for these statements."""
        self.check()
        self.shared.turns.enter(self, ";".join(statements))
        try:
            super().wait(self.shared.prepare())
            try:
                yield
            except Exception:
                super().wait(self.shared.recover(self))
                raise
        finally:
            self.leave_turn()

    def rollback(self) -> None:
        """Roll back to the last commit. It waits for nothing."""
        self.shared.roll_back(self)

    def close(self) -> None:
        """Roll back, and let go of the shared connection without closing it."""
        self.leave()


class AsyncSharedConnection(SharedMixin, psycopg.AsyncConnection[Any]):
    """The async version of `SharedConnection`."""

    def __init__(self, shared: SharedTransaction, context: AdaptContext) -> None:
        psycopg.AsyncConnection.__init__(self, shared.pgconn, tuple_row)
        _join(self, shared, context)
        self.cursor_factory, self.server_cursor_factory = _AsyncCursor, _AsyncServerCursor

    async def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        """Wait for the turn of a statement, and run it."""
        marked = _marked(gen)
        if not marked.alone:
            return _result(marked.steps)
        self.check()
        await self.shared.turns.enter_async(self, marked.sql)
        try:
            steps = self.shared.in_turn(self, marked.steps, keeps=marked.keeps)
            result = await super().wait(steps, *arguments, **options)
        except BaseException:
            self.leave_turn()
            raise
        self.shared.turns.leave()
        return result

    @asynccontextmanager
    async def turn(self, *statements: str) -> AsyncGenerator[None]:
        """Let code use libpq's connection without interruption, for these statements."""
        self.check()
        await self.shared.turns.enter_async(self, ";".join(statements))
        try:
            await super().wait(self.shared.prepare())
            try:
                yield
            except (Exception, asyncio.CancelledError):
                await super().wait(self.shared.recover(self))
                raise
        finally:
            self.leave_turn()

    async def rollback(self) -> None:
        """Roll back to the last commit. It waits for nothing."""
        self.shared.roll_back(self)

    async def close(self) -> None:
        """Roll back, and let go of the shared connection without closing it."""
        self.leave()
