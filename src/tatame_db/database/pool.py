"""From settings to an engine, its pool, sessions and health."""

from __future__ import annotations

import asyncio
import logging
import select
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import psycopg
from psycopg import sql
from sqlalchemy import URL, Engine, create_engine, event, text
from sqlalchemy.exc import DisconnectionError, MissingGreenlet, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.util.concurrency import in_greenlet

from tatame_db.errors import NOTHING_CHANGED, TatameError
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.settings import Settings, is_local, parse_address

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
    from sqlalchemy.pool import ConnectionPoolEntry

OLDEST_SERVER = 14
POOL_SIZE = 20
CONNECT_TIMEOUT_SECONDS = 2
IDLE_TIMEOUT_SECONDS = 30
CLOSE_TIMEOUT_SECONDS = 30.0

logger = logging.getLogger("tatame_db.sql")
skip_checkout_checks: ContextVar[bool] = ContextVar("skip_checkout_checks", default=False)
"""True while `queries` checks out a connection: it tests liveness and sets autocommit itself."""


class ServerNotRunning(TatameError):
    """No PostgreSQL answers at the address."""

    def __init__(self, address: URL, reason: str) -> None:
        self.address = address
        super().__init__(
            f"PostgreSQL does not answer at {readable(address)}: {reason}",
            means=NOTHING_CHANGED,
            fix="start it with `tatame-db start`, or set `DATABASE_URL` to a server that runs"
            if is_local(address)
            else "check the host and the port in `DATABASE_URL`, and that the network leads there",
        )


class PasswordRejected(TatameError):
    """The server does not take the user and password."""

    def __init__(self, address: URL, words: str) -> None:
        self.address = address
        super().__init__(
            f"the server does not let {address.username or 'this user'} in at {readable(address)}: {words}",
            means=NOTHING_CHANGED,
            fix="check the user and the password in `DATABASE_URL`",
        )


class DatabaseMissing(TatameError):
    """The server answers, but has no database of this name."""

    def __init__(self, address: URL) -> None:
        self.address = address
        super().__init__(
            f"the server has no database {address.database!r} at {readable(address)}",
            means=NOTHING_CHANGED,
            fix="make it with `tatame-db up`, or set `DATABASE_URL` to one that is there",
        )


class DatabaseNotCreated(TatameError):
    """The database is missing, and this user may not create it."""

    def __init__(self, address: URL, words: str) -> None:
        self.address = address
        super().__init__(
            f"the database {address.database!r} cannot be created at {readable(address)}: {words}",
            means=NOTHING_CHANGED,
            fix=f"have it created for you, or `ALTER ROLE {address.username} CREATEDB` as a superuser",
        )


class ConnectionRefused(TatameError):
    """The server answers, and says no; its words are in the message."""

    def __init__(self, address: URL, words: str) -> None:
        self.address, self.words = address, words
        super().__init__(
            f"the server refuses a connection to {readable(address)}: {words}",
            means=NOTHING_CHANGED,
            fix="mend what it says, or set `DATABASE_URL` to another server",
        )


class ServerTooOld(TatameError):
    """The server is older than we support."""

    def __init__(self, address: URL, version: str) -> None:
        self.address, self.version = address, version
        super().__init__(
            f"the server at {readable(address)} is PostgreSQL {version}; {OLDEST_SERVER} is the oldest supported",
            means=NOTHING_CHANGED,
            fix="upgrade the server, or set `DATABASE_URL` to a newer one",
        )


class DatabaseClosed(TatameError):
    """A connection was asked for after `close()`."""

    def __init__(self, address: URL) -> None:
        super().__init__(
            f"this `AsyncDatabase` for {readable(address)} is closed",
            means=NOTHING_CHANGED,
            fix="make a new one, or close it later",
        )


class ConnectionsBusy(TatameError):
    """Connections were still in use when the time for closing ran out."""

    def __init__(self, busy: int, seconds: float) -> None:
        self.busy = busy
        super().__init__(
            f"{busy} connections are still in use after {seconds:g} seconds",
            means="They were left to finish; idle ones are closed, and no new one is given out.",
            fix="end those sessions, or give `close(timeout_seconds=…)` more time",
        )


@dataclass(frozen=True)
class Health:
    """The answer of `check()`: how long a round trip took, or why there was none."""

    healthy: bool
    latency_ms: float | None = None
    reason: str | None = None


def address_of(settings: Settings) -> URL:
    """Return the database that is meant: `DATABASE_URL`, else the embedded one."""
    return settings.address or EmbeddedServer(settings.data_directory).address


def readable(address: URL) -> str:
    """Write an address as other tools take it, without its password."""
    without = address._replace(drivername="postgresql", password=None)
    front, mark, options = without.render_as_string().partition("?")
    # libpq does not read `+` as a space, and `/` needs no escape among the options.
    return front + mark + options.replace("+", "%20").replace("%2F", "/")


def create_missing_database(address: URL) -> bool:
    """Create the database if the server has none of its name; return whether it was created.

    Its time zone is UTC for everyone who connects, whatever tool they use. Committed at once.
    """
    try:
        with Database(address) as database:
            database.ping()
    except (DatabaseMissing, ConnectionRefused) as error:
        # A server may say it in a language we do not read, so its catalogue decides.
        if not _create_database(address):
            raise error from None
        return True
    return False


def _create_database(address: URL) -> bool:
    # CREATE DATABASE cannot run inside a transaction.
    with (
        Database(address.set(database="postgres")) as maintenance,
        maintenance.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
    ):
        if connection.scalar(text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": address.database}):
            return False
        name = sql.Identifier(str(address.database))
        driver = cast("psycopg.Connection", connection.connection.driver_connection)
        try:
            driver.execute(sql.SQL("CREATE DATABASE {}").format(name))
        except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
            # Another `up` made it between our question and our statement.
            return True
        except psycopg.errors.InsufficientPrivilege as error:
            raise DatabaseNotCreated(address, str(error.diag.message_primary)) from error
        driver.execute(sql.SQL("ALTER DATABASE {} SET timezone TO 'UTC'").format(name))
    return True


class _Connections:
    """What both faces of the database share: options, events and answers; neither waits here."""

    def __init__(self, address: URL | str, *, log_statements: bool = False) -> None:
        self.address = parse_address(address) if isinstance(address, str) else address
        self._log_statements = log_statements
        self._closed = False

    @classmethod
    def from_env(cls) -> Self:
        """Make one for the database that the environment and `.env` name, logging statements in development."""
        settings = Settings.from_env()
        return cls(address_of(settings), log_statements=settings.environment == "development")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({readable(self.address)!r})"

    @property
    def _options(self) -> dict[str, Any]:
        defaults: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, "application_name": "tatame-db"}
        return {
            "pool_size": POOL_SIZE,
            "max_overflow": 0,
            "skip_autocommit_rollback": True,
            # The one used last is given out first, so that the others can grow idle and leave.
            "pool_use_lifo": True,
            "hide_parameters": True,
            "connect_args": {name: value for name, value in defaults.items() if name not in self.address.query},
        }

    def _listen(self, engine: Engine) -> None:
        event.listen(engine, "connect", self._prepare)
        event.listen(engine, "checkout", self._refuse_when_closed)
        event.listen(engine, "checkout", _make_ready)
        event.listen(engine, "checkin", self._end_when_closed)
        event.listen(engine, "handle_error", self._explain, retval=True)
        if self._log_statements:
            event.listen(engine, "before_cursor_execute", _start_clock)
            event.listen(engine, "after_cursor_execute", _log_statement)

    def _prepare(self, connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        info = entry.driver_connection.info  # type: ignore[union-attr]  # psycopg's, sync or async
        if info.server_version < OLDEST_SERVER * 10_000:
            raise ServerTooOld(self.address, info.parameter_status("server_version"))
        cursor = connection.cursor()
        # The server itself ends idle sessions, so no thread or task of ours has to; they are replaced at the next use.
        # Behind a pooler that lends its sessions, they are not ours to end. Our timestamps have no zone and mean UTC.
        cursor.execute(
            "SELECT set_config('TimeZone', 'UTC', false), pg_backend_pid() = %(pid)s, "
            "CASE WHEN pg_backend_pid() = %(pid)s THEN set_config('idle_session_timeout', %(timeout)s, false) END",
            {"pid": info.backend_pid, "timeout": f"{IDLE_TIMEOUT_SECONDS}s"},
        )
        [(_, direct, _)] = cursor.fetchall()
        if not direct:
            # A statement prepared in one session is not there in the next one that PgBouncer or Supabase lends us.
            entry.driver_connection.prepare_threshold = None  # type: ignore[union-attr]
        entry.info["log_statements"] = self._log_statements
        cursor.close()
        connection.commit()

    def _refuse_when_closed(self, *_: object) -> None:
        if self._closed:
            raise DatabaseClosed(self.address)

    def _end_when_closed(self, _: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
        # A session that outlived the patience of `close` must not come back to a pool that nobody will close again.
        if self._closed:
            entry.close()

    def _explain(self, context: ExceptionContext) -> BaseException | None:
        """Turn a failure to connect into words; errors of statements stay SQLAlchemy's."""
        connecting = context.connection is None and not context.is_pre_ping
        if not connecting or not isinstance(context.original_exception, psycopg.OperationalError):
            return None
        return _refusal(self.address, str(context.original_exception))


class Database(_Connections):
    """A pool of at most 20 connections, and sessions on them."""

    def __init__(self, address: URL | str, *, log_statements: bool = False) -> None:
        super().__init__(address, log_statements=log_statements)
        self.engine = create_engine(self.address, **self._options)
        self._listen(self.engine)
        self.session: sessionmaker[Session] = sessionmaker(self.engine, expire_on_commit=False)
        """`with db.session.begin() as session:` commits at the end; `db.session()` leaves that to you."""

    def ping(self) -> None:
        """Make one round trip; raises what stands in the way."""
        with self.engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def check(self) -> Health:
        """Say whether the database answers, how fast, and if not, why; never raises."""
        started = time.perf_counter()
        try:
            self.ping()
        except (TatameError, SQLAlchemyError) as error:
            return _unhealthy(error)
        return _healthy(started)

    def close(self, timeout_seconds: float = CLOSE_TIMEOUT_SECONDS) -> None:
        """Give out no more connections, wait for those in use, close all; a second call does nothing.

        Raises `ConnectionsBusy` when the time runs out.
        """
        self._closed = True
        deadline = time.monotonic() + timeout_seconds
        while _busy(self.engine) and time.monotonic() < deadline:
            time.sleep(0.01)
        busy = _busy(self.engine)
        self.engine.dispose()
        if busy:
            raise ConnectionsBusy(busy, timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncDatabase(_Connections):
    """The same for asyncio."""

    def __init__(self, address: URL | str, *, log_statements: bool = False) -> None:
        # asyncio's engine brings greenlet, which those who only work in step do not need to load.
        from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine  # noqa: PLC0415

        super().__init__(address, log_statements=log_statements)
        self.engine = create_async_engine(self.address, **self._options)
        self._listen(self.engine.sync_engine)
        event.listen(self.engine.sync_engine, "do_connect", _wait_in_greenlets_only)
        self.session = async_sessionmaker(self.engine, expire_on_commit=False)
        """`async with db.session.begin() as session:` commits at the end; `db.session()` leaves that to you."""

    async def ping(self) -> None:
        """Make one round trip; raises what stands in the way."""
        async with self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def check(self) -> Health:
        """Say whether the database answers, how fast, and if not, why; never raises."""
        started = time.perf_counter()
        try:
            await self.ping()
        except (TatameError, SQLAlchemyError) as error:
            return _unhealthy(error)
        return _healthy(started)

    async def close(self, timeout_seconds: float = CLOSE_TIMEOUT_SECONDS) -> None:
        """Give out no more connections, wait for those in use, close all; a second call does nothing.

        Raises `ConnectionsBusy` when the time runs out.
        """
        self._closed = True
        deadline = time.monotonic() + timeout_seconds
        while _busy(self.engine.sync_engine) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        busy = _busy(self.engine.sync_engine)
        await self.engine.dispose()
        if busy:
            raise ConnectionsBusy(busy, timeout_seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _refusal(address: URL, said: str) -> TatameError:
    # libpq gives no SQLSTATE for a connection that never was, so the words have to tell. The server's own follow
    # FATAL in most languages; before them stands where we looked.
    _, answered, words = said.partition("FATAL:")
    words = (words if answered else said).strip().splitlines()[0]
    for prefix in ("connection failed: ", "connection is bad: "):
        words = words.removeprefix(prefix)
    if "password authentication failed" in words or "no password supplied" in words:
        return PasswordRejected(address, words)
    if answered and words.startswith("database ") and words.endswith("does not exist"):
        return DatabaseMissing(address)
    if answered or any(word in words for word in ("SSL", "sslmode", "certificate", "Permission denied")):
        return ConnectionRefused(address, words)
    return ServerNotRunning(address, words)


def _busy(engine: Engine) -> int:
    return engine.pool.checkedout()  # type: ignore[attr-defined,no-any-return]  # a QueuePool's


def _healthy(started: float) -> Health:
    return Health(healthy=True, latency_ms=(time.perf_counter() - started) * 1000)


def _unhealthy(error: TatameError | SQLAlchemyError) -> Health:
    return Health(healthy=False, reason=error.what if isinstance(error, TatameError) else str(error).splitlines()[0])


def is_gone(connection: psycopg.Connection | psycopg.AsyncConnection) -> bool:
    """Say whether the server ended an idle connection, without a round trip: else nothing waits to be read."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _make_ready(connection: DBAPIConnection, entry: ConnectionPoolEntry, _: object) -> None:
    if skip_checkout_checks.get():
        return
    driver = cast("psycopg.Connection", entry.driver_connection)
    if is_gone(driver):
        raise DisconnectionError("the server ended this connection while it was idle")
    if driver.autocommit:
        connection.autocommit = False


def _wait_in_greenlets_only(*_: object) -> None:
    if not in_greenlet():
        raise MissingGreenlet("a new connection has to be waited for")


def _start_clock(*event_arguments: Any) -> None:
    event_arguments[4]._tatame_started = time.perf_counter()


def _log_statement(*event_arguments: Any) -> None:
    # The text alone: parameters may be somebody's name or address.
    statement, context = event_arguments[2], event_arguments[4]
    logger.info("%s [%.1f ms]", statement, (time.perf_counter() - context._tatame_started) * 1000)
