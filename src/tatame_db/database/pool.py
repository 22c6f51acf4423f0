"""A pool of connections and its sessions, sync and async."""

from __future__ import annotations

import asyncio
import logging
import queue
import time
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, Unpack

import psycopg
from sqlalchemy import URL, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, MissingGreenlet
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.util.concurrency import in_greenlet

from tatame_db.database.address import parse_address, readable
from tatame_db.database.connecting import AsyncDatabasePool, DatabasePool, PoolStatistics, connect_async
from tatame_db.database.dialect import OLDEST_SERVER
from tatame_db.database.driver import check_intervals, driver_connection, is_gone
from tatame_db.database.errors import ConnectionsBusy, DatabaseClosed, ServerTooOld
from tatame_db.database.failures import statement_error
from tatame_db.database.fork import survive_fork
from tatame_db.database.health import CHECK_TIMEOUT_SECONDS, Health, Probe
from tatame_db.database.observer import Callback, Observer, observe_sessions
from tatame_db.database.options import DatabaseOptions, Options
from tatame_db.database.retries import (
    RETRIES,
    Attempts,
    IsolationLevel,
    refuse_async,
    refuse_awaitable,
    require_awaitable,
)
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy import PoolProxiedConnection
    from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.pool import ConnectionPoolEntry

T = TypeVar("T")

IDLE_TIMEOUT_SECONDS = 30
CLOSE_TIMEOUT_SECONDS = 30.0

logger = logging.getLogger("tatame_db.database")
skip_checkout_checks: ContextVar[bool] = ContextVar("skip_checkout_checks", default=False)
"""True while a query checks out a connection: it tests liveness and sets autocommit itself."""


class _Connections:
    """The base of `Database` and `AsyncDatabase`: the options and events of their engines. It waits for nothing."""

    shares_transaction: ClassVar[bool] = False
    """True in the test kit: all connections of its databases share one transaction, so a query opens none in autocommit
    and takes turns with the statements of the others."""

    def __init__(self, address: URL | str, **options: Unpack[DatabaseOptions]) -> None:
        self.address = parse_address(address) if isinstance(address, str) else address
        self.options = Options(**options)
        """The options in use; those that the address contains itself come before them."""
        self._observer = Observer(
            log_statements=self.options.log_statements, slow_statement_ms=self.options.slow_statement_ms
        )
        self._statement_timeout_ms = self.options.statement_timeout_beside(self.address)
        self._closed = self._warned = False

    @classmethod
    def from_env(cls) -> Self:
        """Connect to the database of the settings: `DATABASE_URL`, or else the embedded server.

        The options come from `TATAME_POOL_SIZE` and the other variables. Every statement is logged in development, and
        slow ones always.

        Raises `SettingsInvalid`, `EnvFileUnreadable`, `AddressInvalid`.
        """
        settings = Settings.from_env()
        address = settings.address or EmbeddedServer(settings.data_directory).address
        return cls(address, **settings.database_options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({readable(self.address)!r})"

    @property
    def _engine_options(self) -> dict[str, Any]:
        return {
            "pool_size": self.options.pool_size,
            "pool_timeout": self.options.pool_timeout_seconds,
            "max_overflow": 0,
            "skip_autocommit_rollback": True,
            # The most recently used connection is reused first, so that the others become idle and are closed.
            "pool_use_lifo": True,
            "hide_parameters": True,
            "connect_args": self.options.beside(self.address),
        }

    def _listen(self, engine: Engine) -> None:
        event.listen(engine, "connect", self._prepare)
        event.listen(engine, "checkout", self._refuse_when_closed)
        event.listen(engine, "checkout", self._make_ready)
        event.listen(engine, "checkin", self._discard_when_closed)
        event.listen(engine, "handle_error", self._explain, retval=True)
        survive_fork(engine)
        if self._statement_timeout_ms is not None:
            # Errors of an event would reach the caller as psycopg's, those of this method as SQLAlchemy's.
            engine.dialect.do_begin = self._limit_transaction  # type: ignore[method-assign]
        self._sync_engine = engine
        self._pool.address = self.address
        if self._observer.listening:
            observe_sessions(engine, self._observer)

    def on_statement(self, callback: Callback) -> Callback:
        """Call a function with a `StatementEvent` at the end of each statement, failed ones included.

            @db.on_statement
            def count(statement: StatementEvent) -> None:
                STATEMENTS.labels(failed=statement.error is not None).observe(statement.seconds)

        It is called for queries, writes, streams and the statements of sessions, in the thread or event loop of their
        caller: it should return at once, and must not use the database. An error that it raises is logged, the first
        time only, and breaks no call. A session that is already open may not report.

        Raises `TypeError` for an async function.
        """
        self._observer.add(callback)
        observe_sessions(self._sync_engine, self._observer)
        return callback

    def statistics(self) -> PoolStatistics:
        """Return how many connections the pool has, and how many callers wait for one; it takes no time."""
        pool = self._pool
        return PoolStatistics(size=pool.size(), in_use=pool.checkedout(), idle=pool.checkedin(), waiting=pool.waiting)

    @property
    def _pool(self) -> DatabasePool:
        pool = self._sync_engine.pool
        assert isinstance(pool, DatabasePool)  # noqa: S101, for the type checker
        return pool

    def _probe(self, timeout_seconds: float) -> Probe:
        _, parameters = self._sync_engine.dialect.create_connect_args(self.address)
        # psycopg's adapters, which libpq does not know.
        parameters.pop("context", None)
        statistics = self.statistics()
        return Probe(
            address=self.address,
            parameters={**parameters, **self.options.beside(self.address)},
            timeout_seconds=timeout_seconds,
            busy=statistics.in_use >= statistics.size,
        )

    def _closed_health(self) -> Health:
        return Health(healthy=False, reason=DatabaseClosed(address=self.address).what)

    def _prepare(self, connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        driver = driver_connection(entry)
        if driver.info.server_version < OLDEST_SERVER * 10_000:
            version = driver.info.parameter_status("server_version") or "of an unknown version"
            raise ServerTooOld(address=self.address, version=version)
        cursor = connection.cursor()
        limit = None if self._statement_timeout_ms is None else f"{self._statement_timeout_ms}ms"
        # The server itself ends idle sessions, so that no thread or task has to; the pool replaces them at their next
        # use. A pooler's sessions belong to the pooler, which ends them. Timestamps have no zone and mean UTC.
        cursor.execute(
            "SELECT set_config('TimeZone', 'UTC', false), pg_backend_pid() = %(pid)s, "
            "CASE WHEN pg_backend_pid() = %(pid)s THEN set_config('idle_session_timeout', %(timeout)s, false) END, "
            "CASE WHEN pg_backend_pid() = %(pid)s AND %(limit)s::text IS NOT NULL "
            "THEN set_config('statement_timeout', %(limit)s, false) END",
            {"pid": driver.info.backend_pid, "timeout": f"{IDLE_TIMEOUT_SECONDS}s", "limit": limit},
        )
        [(_, direct, _, _)] = cursor.fetchall()
        entry.info["pooled"] = not direct
        if not direct:
            # PgBouncer and Supabase lend each transaction another session, which knows no statement prepared before.
            driver.prepare_threshold = None
            self._warn_of_pooler()
        check_intervals(driver)
        entry.info["observer"] = self._observer
        entry.info["address"] = self.address
        cursor.close()
        connection.commit()

    def _warn_of_pooler(self) -> None:
        if self._statement_timeout_ms is not None and not self._warned:
            self._warned = True
            logger.warning(
                "%r is behind a pooler, whose sessions keep no settings: statement_timeout_ms limits the statements "
                "of sessions, and not the queries and writes outside them. Limit those with "
                "`ALTER ROLE … SET statement_timeout`",
                self,
            )

    def _limit_transaction(self, dbapi_connection: PoolProxiedConnection) -> None:
        """Set the time-out of statements for one transaction, where the session belongs to a pooler."""
        if dbapi_connection.info.get("pooled") and not driver_connection(dbapi_connection).autocommit:
            cursor = dbapi_connection.cursor()
            cursor.execute(f"SET LOCAL statement_timeout = {self._statement_timeout_ms:d}")
            cursor.close()

    def _refuse_when_closed(self, *_: object) -> None:
        if self._closed:
            raise DatabaseClosed(address=self.address)

    def _make_ready(self, connection: DBAPIConnection, entry: ConnectionPoolEntry, _: object) -> None:
        if skip_checkout_checks.get():
            return
        driver = driver_connection(entry)
        if is_gone(driver):
            # The pool catches this and connects anew.
            raise DisconnectionError("the server ended this connection while it was idle")
        if driver.autocommit:
            connection.autocommit = False

    def _discard_when_closed(self, _: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
        # A session may outlive the timeout of `close`. No later `close` would end the connection it returns.
        if self._closed:
            entry.close()

    def _explain(self, context: ExceptionContext) -> BaseException | None:
        """Replace the failure of a statement that the server refused to run; other errors stay SQLAlchemy's."""
        if context.connection is None or not isinstance(context.original_exception, psycopg.Error):
            return None
        driver = driver_connection(context.connection)
        return statement_error(self.address, context.original_exception, driver.pgconn)


class Database(_Connections):
    """A pool of at most 20 connections, and sessions on them.

        with Database.from_env() as db, db.session.begin() as session:
            gym = session.get(Gym, 1)

    Nothing connects before the first use. Every use raises `DatabaseUnavailable` if no connection can be made.
    """

    def __init__(self, address: URL | str, **options: Unpack[DatabaseOptions]) -> None:
        super().__init__(address, **options)
        self.engine = create_engine(self.address, poolclass=DatabasePool, **self._engine_options)
        self._listen(self.engine)
        self.session: sessionmaker[Session] = sessionmaker(self.engine, expire_on_commit=False)
        """`with db.session.begin() as session:` commits at its end; after `db.session()`, you commit yourself."""

    def ping(self) -> None:
        """Make one round trip. Raises `DatabaseUnavailable`."""
        with self.engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def check(self, timeout_seconds: float = CHECK_TIMEOUT_SECONDS) -> Health:
        """Return within the time-out whether PostgreSQL answers, and how fast or why not; never raises.

        It uses a connection of its own for a moment, so it does not wait while all of the pool are busy.
        """
        if self._closed:
            return self._closed_health()
        probe, answers = self._probe(timeout_seconds), queue.SimpleQueue[Health]()
        probe.start(answers.put)
        try:
            return answers.get(timeout=timeout_seconds)
        except queue.Empty:
            return probe.timed_out()

    def run_in_transaction(
        self, work: Callable[[Session], T], *, retries: int = RETRIES, isolation_level: IsolationLevel | None = None
    ) -> T:
        """Call a function with a new session, commit, and return its result; after a conflict, try all of it again.

            gym_id = db.run_in_transaction(lambda session: open_gym(session, "Tatame Norte"))

        A deadlock or a serialization failure rolls the transaction back, and the function is called again up to
        `retries` times, after pauses of about 20, 40, 80 ms and so on. So let it have no effect outside the session. An
        exception of the function rolls back and reaches the caller; so does the last conflict.

        Raises `OutcomeUnknown` if the connection is lost during the commit, which is never tried again.
        """
        refuse_async(work)
        attempts = Attempts(work, retries)
        while True:
            try:
                return self._run_once(work, isolation_level)
            except DBAPIError as error:
                pause_seconds = attempts.pause_seconds(error)
            time.sleep(pause_seconds)

    def _run_once(self, work: Callable[[Session], T], isolation_level: IsolationLevel | None) -> T:
        with self.session() as session, session.begin():
            if isolation_level:
                session.connection(execution_options={"isolation_level": isolation_level})
            result = work(session)
            refuse_awaitable(result)
        return result

    def close(self, timeout_seconds: float = CLOSE_TIMEOUT_SECONDS) -> None:
        """Open no more connections, wait for those in use, close all; a second call does nothing.

        Raises `ConnectionsBusy` when the time runs out.
        """
        self._closed = True
        self._pool.kept.close()
        deadline = time.monotonic() + timeout_seconds
        while _in_use(self.engine) and time.monotonic() < deadline:
            time.sleep(0.01)
        busy = _in_use(self.engine)
        self.engine.dispose()
        if busy:
            raise ConnectionsBusy(busy=busy, seconds=timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncDatabase(_Connections):
    """The asyncio version of `Database`.

    async with AsyncDatabase.from_env() as db, db.session.begin() as session:
        gym = await session.get(Gym, 1)
    """

    def __init__(self, address: URL | str, **options: Unpack[DatabaseOptions]) -> None:
        # SQLAlchemy's asyncio loads greenlet, which sync programs do not need.
        from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine  # noqa: PLC0415

        super().__init__(address, **options)
        engine_options = self._engine_options
        engine_options["connect_args"]["async_creator_fn"] = connect_async
        self.engine = create_async_engine(self.address, poolclass=AsyncDatabasePool, **engine_options)
        self._listen(self.engine.sync_engine)
        event.listen(self.engine.sync_engine, "do_connect", _connect_in_greenlets_only)
        self.session = async_sessionmaker(self.engine, expire_on_commit=False)
        """`async with db.session.begin() as session:` commits at its end; after `db.session()`, you commit yourself."""

    async def ping(self) -> None:
        """Make one round trip. Raises `DatabaseUnavailable`."""
        async with self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def check(self, timeout_seconds: float = CHECK_TIMEOUT_SECONDS) -> Health:
        """Do what `Database.check` does."""
        if self._closed:
            return self._closed_health()
        loop = asyncio.get_running_loop()
        probe, answers = self._probe(timeout_seconds), asyncio.Queue[Health]()

        def report(health: Health) -> None:
            # The caller may be gone, and its loop with it.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(answers.put_nowait, health)

        probe.start(report)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await answers.get()
        except TimeoutError:
            return probe.timed_out()

    async def run_in_transaction(
        self,
        work: Callable[[AsyncSession], Awaitable[T]],
        *,
        retries: int = RETRIES,
        isolation_level: IsolationLevel | None = None,
    ) -> T:
        """Do what `Database.run_in_transaction` does, with an async function.

        gym_id = await db.run_in_transaction(lambda session: open_gym(session, "Tatame Norte"))

        If the caller is cancelled during the commit, the outcome is unknown too.
        """
        attempts = Attempts(work, retries)
        while True:
            try:
                return await self._run_once(work, isolation_level)
            except DBAPIError as error:
                pause_seconds = attempts.pause_seconds(error)
            await asyncio.sleep(pause_seconds)

    async def _run_once(
        self, work: Callable[[AsyncSession], Awaitable[T]], isolation_level: IsolationLevel | None
    ) -> T:
        async with self.session() as session, session.begin():
            if isolation_level:
                await session.connection(execution_options={"isolation_level": isolation_level})
            working = work(session)
            require_awaitable(working)
            return await working

    async def close(self, timeout_seconds: float = CLOSE_TIMEOUT_SECONDS) -> None:
        """Open no more connections, wait for those in use, close all; a second call does nothing.

        Raises `ConnectionsBusy` when the time runs out.
        """
        self._closed = True
        self._pool.kept.close()
        deadline = time.monotonic() + timeout_seconds
        while _in_use(self.engine.sync_engine) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        busy = _in_use(self.engine.sync_engine)
        await self.engine.dispose()
        if busy:
            raise ConnectionsBusy(busy=busy, seconds=timeout_seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _in_use(engine: Engine) -> int:
    return engine.pool.checkedout()  # type: ignore[attr-defined,no-any-return]  # a QueuePool's


def _connect_in_greenlets_only(*_: object) -> None:
    # Queries ask the pool for an idle connection outside a greenlet. Without one it would connect, and this stops it.
    if not in_greenlet():
        raise MissingGreenlet("a new connection has to be awaited")
