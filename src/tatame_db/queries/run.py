"""Statements on the driver's own connection, which bypass SQLAlchemy's execution but use its pool.

The two faces, in step and for asyncio, only wait; what is sent and what is made of the answer is in `Statement`.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeAlias, TypeVar, cast

import msgspec
import psycopg
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import DBAPIError, MissingGreenlet
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn
from typing_extensions import TypeIs

from tatame_db.database.driver import is_gone
from tatame_db.database.pool import AsyncDatabase, Database, logger, skip_checkout_checks
from tatame_db.errors import TatameError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence

    from sqlalchemy import Dialect, PoolProxiedConnection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.pool import Pool, QueuePool

T = TypeVar("T")
SyncTarget: TypeAlias = "Database | Session | Connection"
AsyncTarget: TypeAlias = "AsyncDatabase | AsyncSession | AsyncConnection"

BATCH_OF_A_STREAM = 1_000
DIALECT: Dialect = PGDialect_psycopg()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped


class ValueNotReadable(TatameError):
    """A value has no equal in Python; SQLAlchemy's session refuses it too."""

    def __init__(self, statement: str) -> None:
        super().__init__(
            f"`{statement}` meets a value that Python has none for: "
            "a moment that is `infinity`, before the year 1 or after the year 9999",
            means="Nothing was returned.",
            fix="correct it in the database, or leave it out: `.where(func.isfinite(…))` or `.columns(…)`",
        )


@dataclass(frozen=True)
class Statement(Generic[T]):
    """What is sent, and how a row of the answer becomes what the caller gets."""

    name: str
    sql: str
    make: Callable[[Sequence[Any]], T]
    has_rows: bool = True

    @cached_property
    def query(self) -> bytes:
        """The text as the driver takes it from others than itself."""
        return self.sql.encode()

    def row_factory(self, _: object) -> Callable[[Sequence[Any]], T]:
        """Give a cursor of the driver what makes its rows."""
        return self.make

    def log(self, connection: PoolProxiedConnection, started: float) -> None:
        """Write the name and the time where statements are logged; parameters may be somebody's name or address."""
        if connection.info.get("log_statements"):
            logger.info("%s [%.1f ms]", self.name, (time.perf_counter() - started) * 1000)

    def explain_failure(self, error: psycopg.Error | msgspec.DecodeError) -> NoReturn:
        """Raise what a session would raise; values that cannot be read get words of ours."""
        if not isinstance(error, psycopg.Error) or (isinstance(error, psycopg.DataError) and error.sqlstate is None):
            raise ValueNotReadable(self.name) from None
        raise DBAPIError.instance(
            self.sql, None, error, psycopg.Error, hide_parameters=True, dialect=DIALECT
        ) from error


FAILURES = (psycopg.Error, msgspec.DecodeError)


_numbers = count(1)


def _cursor_name() -> str:
    # Two streams of one session must not share a name.
    return f"tatame_{next(_numbers)}"


def is_sync(on: SyncTarget | AsyncTarget) -> TypeIs[SyncTarget]:
    """Return whether a target is synchronous; its results are returned, those of the others are awaited."""
    return isinstance(on, Database | Session | Connection)


# --- Sync ------------------------------------------------------------------------------------------------------------


@contextmanager
def borrowed(on: SyncTarget) -> Generator[PoolProxiedConnection]:
    """Lend the connection of a session, inside its transaction; or one of the pool, in autocommit."""
    if isinstance(on, Session):
        if on.autoflush:
            on.flush()
        on = on.connection()
    if isinstance(on, Connection):
        yield on.connection
        return
    connection = _from_pool(on)
    try:
        driver = _driver(connection)
        if not driver.autocommit:
            driver.autocommit = True
        yield connection
    finally:
        _back_to_pool(connection)


def _from_pool(database: Database) -> PoolProxiedConnection:
    token = skip_checkout_checks.set(True)
    try:
        return _alive(database.engine.pool, database.engine.pool.connect())
    except psycopg.OperationalError:
        # It says in words what stands in the way.
        database.ping()
        raise
    finally:
        skip_checkout_checks.reset(token)


def _alive(pool: Pool, connection: PoolProxiedConnection) -> PoolProxiedConnection:
    while is_gone(_driver(connection)):
        connection.invalidate()
        connection = pool.connect()
    return connection


def _back_to_pool(connection: PoolProxiedConnection) -> None:
    if _is_usable(connection):
        connection.close()
    else:
        connection.invalidate()


def _is_usable(connection: PoolProxiedConnection) -> bool:
    driver = connection.driver_connection
    return cast("psycopg.Connection", driver).pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE


def _driver(connection: PoolProxiedConnection) -> psycopg.Connection[Any]:
    return cast("psycopg.Connection[Any]", connection.driver_connection)


def fetch(on: SyncTarget, statement: Statement[T], parameters: dict[str, Any]) -> list[T]:
    """Run a statement and return its rows."""
    with borrowed(on) as connection:
        started = time.perf_counter()
        try:
            cursor = _driver(connection).cursor(row_factory=statement.row_factory)
            cursor.execute(statement.query, parameters)
            rows: list[T] = cursor.fetchall() if statement.has_rows else []
        except FAILURES as error:
            statement.explain_failure(error)
        statement.log(connection, started)
        return rows


def stream(on: SyncTarget, statement: Statement[T], parameters: dict[str, Any]) -> Iterator[T]:
    """Run a statement and yield its rows, of which a batch at a time is in memory."""
    with borrowed(on) as connection:
        driver = _driver(connection)
        started = time.perf_counter()
        try:
            # A cursor of the server lives in a transaction.
            with (
                driver.transaction() if driver.autocommit else nullcontext(),
                driver.cursor(_cursor_name(), row_factory=statement.row_factory) as cursor,
            ):
                cursor.execute(statement.query, parameters)
                while rows := cursor.fetchmany(BATCH_OF_A_STREAM):
                    yield from rows
        except FAILURES as error:
            statement.explain_failure(error)
        statement.log(connection, started)


def copy(on: SyncTarget, statement: Statement[Any], rows: Iterable[Sequence[Any]]) -> None:
    """Run a COPY that reads these rows; all or none are written."""
    with borrowed(on) as connection:
        started = time.perf_counter()
        try:
            with _driver(connection).cursor().copy(statement.query) as written:
                for row in rows:
                    written.write_row(row)
        except FAILURES as error:
            statement.explain_failure(error)
        statement.log(connection, started)


# --- Async -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def borrowed_async(on: AsyncTarget) -> AsyncGenerator[PoolProxiedConnection]:
    """Do what `borrowed` does."""
    if not isinstance(on, AsyncDatabase):
        # Only asyncio needs greenlet, which this import loads.
        from sqlalchemy.ext.asyncio import AsyncSession  # noqa: PLC0415

        if isinstance(on, AsyncSession):
            if on.autoflush:
                await on.flush()
            on = await on.connection()
        yield await on.get_raw_connection()
        return
    connection = await _from_pool_async(on)
    try:
        driver = _driver_async(connection)
        if not driver.autocommit:
            await driver.set_autocommit(True)
        yield connection
    finally:
        if _is_usable(connection):
            # In autocommit there is nothing to undo, so nothing to wait for.
            connection.close()
        else:
            await greenlet_spawn(connection.invalidate)


async def _from_pool_async(database: AsyncDatabase) -> PoolProxiedConnection:
    pool = cast("QueuePool", database.engine.sync_engine.pool)
    token = skip_checkout_checks.set(True)
    try:
        if pool.checkedin():
            # An idle connection is there at once; going through a greenlet would cost more than all the rest.
            with suppress(MissingGreenlet):
                connection = pool.connect()
                gone = is_gone(_driver(connection))
                return await greenlet_spawn(_alive, pool, connection) if gone else connection
        connection = await greenlet_spawn(pool.connect)
        return await greenlet_spawn(_alive, pool, connection)
    except psycopg.OperationalError:
        await database.ping()
        raise
    finally:
        skip_checkout_checks.reset(token)


def _driver_async(connection: PoolProxiedConnection) -> psycopg.AsyncConnection[Any]:
    return cast("psycopg.AsyncConnection[Any]", connection.driver_connection)


async def fetch_async(on: AsyncTarget, statement: Statement[T], parameters: dict[str, Any]) -> list[T]:
    """Do what `fetch` does."""
    async with borrowed_async(on) as connection:
        started = time.perf_counter()
        try:
            cursor = _driver_async(connection).cursor(row_factory=statement.row_factory)
            await cursor.execute(statement.query, parameters)
            rows: list[T] = await cursor.fetchall() if statement.has_rows else []
        except FAILURES as error:
            statement.explain_failure(error)
        statement.log(connection, started)
        return rows


async def stream_async(on: AsyncTarget, statement: Statement[T], parameters: dict[str, Any]) -> AsyncIterator[T]:
    """Do what `stream` does."""
    async with borrowed_async(on) as connection:
        driver = _driver_async(connection)
        started = time.perf_counter()
        try:
            async with (
                driver.transaction() if driver.autocommit else nullcontext(),
                driver.cursor(_cursor_name(), row_factory=statement.row_factory) as cursor,
            ):
                await cursor.execute(statement.query, parameters)
                while rows := await cursor.fetchmany(BATCH_OF_A_STREAM):
                    for row in rows:
                        yield row
        except FAILURES as error:
            statement.explain_failure(error)
        statement.log(connection, started)


async def copy_async(on: AsyncTarget, statement: Statement[Any], rows: Iterable[Sequence[Any]]) -> None:
    """Do what `copy` does."""
    async with borrowed_async(on) as connection:
        started = time.perf_counter()
        try:
            async with _driver_async(connection).cursor().copy(statement.query) as written:
                for row in rows:
                    await written.write_row(row)
        except FAILURES as error:
            statement.explain_failure(error)
        statement.log(connection, started)
