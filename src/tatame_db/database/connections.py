"""What `Database` and `AsyncDatabase` share: options, events of their engines, and all that waits for nothing."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack, cast

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, Engine, event
from sqlalchemy.exc import DisconnectionError

from tatame_db.database import commits
from tatame_db.database.address import parse_address, readable, without_environment
from tatame_db.database.citus import (
    HAS_CITUS,
    IS_LOADED,
    SEQUENTIAL,
    TRANSACTION_IN_SEQUENCE,
    is_query,
    know,
    knows_citus,
)
from tatame_db.database.connecting import DatabasePool, PoolStatistics
from tatame_db.database.dialect import OLDEST_SERVER, SCHEMA, qualify
from tatame_db.database.driver import check_intervals, driver_connection, is_gone
from tatame_db.database.errors import CitusNotLoaded, DatabaseClosed, NotAReplica, ServerTooOld, TransactionAborted
from tatame_db.database.failures import hide_row, is_stale, note_wish, serve_by_pooler, statement_error
from tatame_db.database.fork import survive_fork
from tatame_db.database.health import Health, Probe
from tatame_db.database.identity import IDENTIFIED, Identified
from tatame_db.database.idle import IdleConnections
from tatame_db.database.observer import Callback, Observer, log_safely, observe_sessions
from tatame_db.database.options import DatabaseOptions, Options, check_seconds
from tatame_db.database.session_state import CHANGED, asks_for_reads_only, changes_session
from tatame_db.database.silence import begin_setup, end_setup, heard_in_setup, setup_has_expired
from tatame_db.database.standby import is_standby, lower_isolation
from tatame_db.database.streams import OpenStreams
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.settings import Settings

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn
    from sqlalchemy import Connection, Dialect, PoolProxiedConnection
    from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor, ExceptionContext, ExecutionContext
    from sqlalchemy.pool import ConnectionPoolEntry

logger = logging.getLogger("tatame_db.database")
_REPORTED_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "standard_conforming_strings": "on",
}
"""What values mean, whatever the role or the database say. Timestamps have no zone and mean UTC; psycopg reads dates
and intervals in these forms only. The server reports each change of them, and of the encoding."""

_OTHER_SETTINGS = {
    "extra_float_digits": "1",
    "array_nulls": "on",
    "bytea_output": "hex",
    "transform_null_equals": "off",
}
"""The same for settings that are not reported."""

SESSION_SETTINGS = {**_REPORTED_SETTINGS, **_OTHER_SETTINGS}
"""Every setting that each session has, unless it belongs to a pooler."""

SEARCH_PATH = f"concat_ws(', ', '{SCHEMA}', nullif(current_setting('search_path'), ''))"
"""SQL of the path of each session, because SQL that an app or a migration writes itself names no schema. The rest of
the path may hold extensions."""

_POOLED_SETTINGS = ("TimeZone", "DateStyle", "standard_conforming_strings")
"""Those that PgBouncer keeps for each client; others would stay in a session that all its clients share."""

_REPORTED = [
    (b"client_encoding", b"UTF8"),
    *((name.encode(), value.encode()) for name, value in _REPORTED_SETTINGS.items()),
]

_LOWERED = "isolation is lowered"

skip_checkout_checks: ContextVar[bool] = ContextVar("skip_checkout_checks", default=False)
"""True while a query checks out a connection: it tests liveness and sets autocommit itself."""


def _prepare_session() -> str:
    set_all = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in SESSION_SETTINGS.items())
    set_all += f", set_config('search_path', {SEARCH_PATH}, false)"
    set_pooled = ", ".join(f"set_config('{name}', '{SESSION_SETTINGS[name]}', false)" for name in _POOLED_SETTINGS)
    direct = "pg_backend_pid() = %(pid)s"
    return (
        f"SELECT {direct}, CASE WHEN {direct} THEN ARRAY[{set_all}] ELSE ARRAY[{set_pooled}] END, {HAS_CITUS}, "
        f"{IS_LOADED}, CASE WHEN {direct} AND {HAS_CITUS} THEN {SEQUENTIAL} END, "
        f"CASE WHEN {direct} AND %(limit)s::text IS NOT NULL THEN set_config('statement_timeout', %(limit)s, false) END"
    )


_PREPARE_SESSION = _prepare_session()


class Connections:
    """The base of `Database` and `AsyncDatabase`: the options and events of their engines. It waits for nothing."""

    shares_transaction: ClassVar[bool] = False
    """True in the test kit: all connections of its databases share one transaction, so a query opens none in autocommit
    and takes turns with the statements of the others."""

    def __init__(self, address: URL | str, **options: Unpack[DatabaseOptions]) -> None:
        self.address = parse_address(address) if isinstance(address, str) else address
        if unknown := options.keys() - DatabaseOptions.__annotations__.keys():
            known = ", ".join(DatabaseOptions.__annotations__)
            raise TypeError(f"unknown option {', '.join(sorted(unknown))}; the options are {known}")
        self.options = Options(**options)
        """The options in use; those that the address contains itself come before them."""
        self.observer = Observer(
            log_statements=self.options.log_statements, slow_statement_ms=self.options.slow_statement_ms
        )
        self._statement_timeout_ms = self.options.statement_timeout_beside(self.address)
        self._idle = self._idle_connections()
        self.streams = OpenStreams(self.address)
        """The streams that hold a connection."""
        self._closed = self._warned = False
        self._is_pooled = False
        """Whether the last new connection led to a pooler."""

    _idle_connections: ClassVar[type[IdleConnections]] = IdleConnections

    @classmethod
    def from_env(cls, **options: Unpack[DatabaseOptions]) -> Self:
        """Connect to the database of the settings: `DATABASE_URL`, or else the embedded server; `DATABASE_REPLICA_URL`.

        Options that are not passed come from `TATAME_POOL_SIZE` and the other variables. Every statement is logged in
        development, and slow ones always.

        Raises `SettingsInvalid`, `EnvFileUnreadable`, `AddressInvalid`.
        """
        settings = Settings.from_env()
        address = settings.address or EmbeddedServer(settings.data_directory).address
        if "replica_address" not in options:
            options["replica_address"] = settings.replica_address
        return cls(address, **(settings.database_options | options))

    @property
    def variable(self) -> str:
        """The setting that has the address."""
        return "DATABASE_URL"

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
        qualify(engine.dialect)
        event.listen(engine, "do_connect", self._ignore_environment)
        # Before the statements with which SQLAlchemy gets to know a server.
        event.listen(engine, "connect", self._limit_setup, insert=True)
        event.listen(engine, "connect", self._prepare)
        event.listen(engine, "checkout", self._take)
        event.listen(engine, "checkout", self._make_ready)
        event.listen(engine, "checkin", self._put_back)
        event.listen(engine, "engine_disposed", self._forget_idle)
        event.listen(engine, "handle_error", self._explain, retval=True)
        event.listen(engine, "before_cursor_execute", _mark_changed)
        survive_fork(engine)
        # Errors of an event would reach the caller as psycopg's, those of this method as SQLAlchemy's.
        engine.dialect.do_begin = self._begin  # type: ignore[method-assign]
        self._commit_of_dialect = engine.dialect.do_commit
        engine.dialect.do_commit = self._commit  # type: ignore[method-assign]
        self._execute_of_dialect = engine.dialect.do_execute
        engine.dialect.do_execute = self._execute  # type: ignore[method-assign]
        self._sync_engine = engine
        self._pool.belong_to(self.address, self.variable, self._idle)
        if self.observer.listening:
            observe_sessions(engine, self.observer)

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
        self.observer.add(callback)
        observe_sessions(self._sync_engine, self.observer)
        return callback

    def statistics(self) -> PoolStatistics:
        """Return how many connections the pool has, and how many callers wait for one; it takes no time."""
        pool = self._pool
        return PoolStatistics(
            size=pool.size(), in_use=pool.checkedout(), idle=len(self._idle) + pool.lent_and_idle, waiting=pool.waiting
        )

    @property
    def _pool(self) -> DatabasePool:
        pool = self._sync_engine.pool
        assert isinstance(pool, DatabasePool)  # noqa: S101, for the type checker
        return pool

    def libpq_parameters(self) -> dict[str, Any]:
        """Return the parameters of a connection, as libpq takes them; one of them is the password."""
        _, parameters = self._sync_engine.dialect.create_connect_args(self.address)
        # psycopg's adapters, which libpq does not know.
        parameters.pop("context", None)
        return {**without_environment(self.address), **parameters, **self.options.beside(self.address)}

    def _probe(self, timeout_seconds: float) -> Probe:
        check_seconds("timeout_seconds", timeout_seconds)
        statistics = self.statistics()
        return Probe(
            address=self.address,
            variable=self.variable,
            parameters=self.libpq_parameters(),
            timeout_seconds=timeout_seconds,
            busy=statistics.in_use >= statistics.size,
        )

    def _end_streams(self) -> None:
        self._closed = True
        self.streams.drop_left()

    def _closed_health(self) -> Health:
        return Health(healthy=False, reason=DatabaseClosed(address=self.address).what)

    def _ignore_environment(self, _: Dialect, __: object, ___: object, parameters: dict[str, Any]) -> None:
        parameters |= without_environment(self.address) | parameters

    def _limit_setup(self, connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        # A connection of the test kit waits for its turn.
        if not self.shares_transaction:
            driver = driver_connection(entry)
            begin_setup(driver, self.options.pool_timeout_seconds, is_pooled=self._is_pooled)
            if is_standby(driver.pgconn):
                entry.info[_LOWERED] = lower_isolation(connection)

    def _prepare(self, connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        heard_in_setup()
        driver = driver_connection(entry)
        if driver.info.server_version < OLDEST_SERVER * 10_000:
            version = driver.info.parameter_status("server_version") or "of an unknown version"
            raise ServerTooOld(address=self.address, variable=self.variable, version=version)
        cursor = connection.cursor()
        limit = None if self._statement_timeout_ms is None else f"{self._statement_timeout_ms}ms"
        cursor.execute(_PREPARE_SESSION, {"pid": driver.info.backend_pid, "limit": limit})
        [(direct, _, has_citus, is_loaded, *_)] = cursor.fetchall()
        heard_in_setup()
        if has_citus and not is_loaded:
            raise CitusNotLoaded(address=self.address)
        know(self._sync_engine, has_citus=has_citus)
        entry.info["pooled"] = self._is_pooled = not direct
        if not direct:
            serve_by_pooler(driver.pgconn)
            if self._is_compared:
                entry.info[IDENTIFIED] = Identified()
            # PgBouncer and Supabase lend each transaction another session, which knows no statement prepared before.
            driver.prepare_threshold = None
            self._warn_of_pooler()
        check_intervals(driver)
        entry.info["observer"] = self.observer
        entry.info["address"] = self.address
        cursor.close()
        connection.commit()
        end_setup()
        self._compare(connection, entry)

    @property
    def _is_compared(self) -> bool:
        """Whether the server is compared with another one."""
        return False

    @property
    def compares_again(self) -> bool:
        """Whether the pool may compare the server again when it lends a connection, which takes a round trip."""
        return self._is_pooled and self._is_compared

    def _compare(self, connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        """Compare the server with another one, as a replica with its primary.

        Raises `NotAReplica`.
        """

    def _compare_again(self, connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        """Compare the server that a pooler leads to now. The pool opens a new connection in place of one that fails."""
        # The identity is then one statement without a transaction, and the next user sets what it needs.
        connection.autocommit = True
        entry.info[IDENTIFIED].renew()
        try:
            self._compare(connection, entry)
        except (NotAReplica, psycopg.Error) as error:
            if setup_has_expired():
                raise
            raise DisconnectionError("the pooler may lead to another server") from error

    def _warn_of_pooler(self) -> None:
        if self._statement_timeout_ms is not None and not self._warned:
            self._warned = True
            log_safely(
                logger,
                logging.WARNING,
                "%r is behind a pooler, whose sessions keep no settings: statement_timeout_ms limits the statements "
                "of sessions, and not the queries and writes outside them. Limit those with "
                "`ALTER ROLE … SET statement_timeout`",
                self,
            )

    def _begin(self, dbapi_connection: PoolProxiedConnection) -> None:
        """Set for one transaction what a session keeps that belongs to no pooler."""
        if not dbapi_connection.info.get("pooled"):
            return
        driver = driver_connection(dbapi_connection)
        note_wish(driver.pgconn, reads_only=bool(driver.read_only))
        if driver.autocommit:
            return
        settings: list[str] = []
        if self._statement_timeout_ms is not None:
            settings.append(f"SET LOCAL statement_timeout = {self._statement_timeout_ms:d}")
        if knows_citus(self._sync_engine.dialect):
            settings.append(TRANSACTION_IN_SEQUENCE)
        if settings:
            cursor = dbapi_connection.cursor()
            cursor.execute("; ".join(settings))
            cursor.close()

    def _commit(self, dbapi_connection: PoolProxiedConnection) -> None:
        """Commit; raises `TransactionAborted` where the server would roll back without an error."""
        # A connection of the test kit shares its status with others, and raises it itself.
        server = driver_connection(dbapi_connection).pgconn
        if server.transaction_status == TransactionStatus.INERROR and not self.shares_transaction:
            raise TransactionAborted
        with commits.committing():
            self._commit_of_dialect(dbapi_connection)

    def _execute(
        self, cursor: DBAPICursor, statement: str, parameters: Any, context: ExecutionContext | None = None
    ) -> None:
        """Execute a statement, and once more if it begins a transaction and its prepared form is stale.

        A migration has changed the type of a column that it returns. psycopg sends BEGIN with the first statement, so
        nothing ran in the transaction before it. A later statement fails, with all that the transaction did.
        """
        connection = None if context is None else context.root_connection
        autocommit = connection is not None and driver_connection(connection).autocommit
        # The statements with which SQLAlchemy gets to know a server belong to the set-up.
        heard_in_setup()
        commits.began(commits_itself=autocommit and not is_query(statement))
        if connection is None or driver_connection(connection).pgconn.transaction_status != TransactionStatus.IDLE:
            self._execute_of_dialect(cursor, statement, parameters, context)
            return
        try:
            self._execute_of_dialect(cursor, statement, parameters, context)
        except psycopg.Error as error:
            if not is_stale(error):
                raise
            # Either lets psycopg forget what the session has prepared.
            if autocommit:
                cursor.execute("DEALLOCATE ALL")
            else:
                connection.connection.rollback()
            self._execute_of_dialect(cursor, statement, parameters, context)

    def _take(self, _: DBAPIConnection, entry: ConnectionPoolEntry, __: object) -> None:
        if self._closed:
            raise DatabaseClosed(address=self.address)
        self._idle.take(entry)

    def _make_ready(self, connection: DBAPIConnection, entry: ConnectionPoolEntry, _: object) -> None:
        identified: Identified | None = entry.info.get(IDENTIFIED)
        if identified is not None and identified.is_old:
            self._compare_again(connection, entry)
        if skip_checkout_checks.get():
            return
        driver = driver_connection(entry)
        if is_gone(driver):
            # The pool catches this and reconnects.
            raise DisconnectionError("the server ended this connection while it was idle")
        if driver.autocommit:
            connection.autocommit = False

    def _forget_idle(self, _: Engine) -> None:
        self._idle.forget()

    def _put_back(self, connection: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
        if connection is None:
            return
        driver = driver_connection(entry)
        # One that was opened on a standby has a lower isolation than the primary's own, to which it was promoted.
        promoted = entry.info.get(_LOWERED) and not is_standby(driver.pgconn)
        if self._closed or driver.closed or promoted or CHANGED in entry.info or _is_changed(driver.pgconn):
            # A session may outlive the timeout of `close`, and no later `close` would end the connection it returns. Or
            # it has changed its role or a setting without LOCAL, and the next caller would see other rows or values. A
            # connection that is closed already, as when a test leaks a session, cannot be asked.
            entry.close()
        else:
            if driver.read_only is not None:
                # SQLAlchemy resets it to "READ WRITE", which a standby refuses, and `db.replica` of a primary has to.
                cast("Any", self._sync_engine.dialect).set_readonly(connection, None)
            if entry.info.get("pooled"):
                note_wish(driver.pgconn, reads_only=False)
            self._idle.add(entry)

    def _explain(self, context: ExceptionContext) -> BaseException | None:
        """Replace the failure of a statement that the server refused to run; other errors stay SQLAlchemy's.

        Those lose what may quote a row, as `hide_parameters` hides the parameters.
        """
        error, wrapped = context.original_exception, context.sqlalchemy_exception
        if context.connection is None or not isinstance(error, psycopg.Error):
            return None
        hide_row(error)
        if wrapped:
            wrapped.args = (f"({type(error).__module__}.{type(error).__name__}) {error}",)
        driver = driver_connection(context.connection)
        if error.sqlstate == "0A000" and not is_query(context.statement):
            return None
        return statement_error(self.address, error, driver.pgconn, is_commit=context.statement is None)


def _mark_changed(
    connection: Connection, _: DBAPICursor, sql: str, parameters: Any, __: ExecutionContext | None, ___: bool
) -> None:
    if changes_session(sql, parameters):
        connection.info[CHANGED] = True
    if connection.info.get("pooled") and asks_for_reads_only(sql):
        note_wish(driver_connection(connection).pgconn, reads_only=True)


def _is_changed(server: PGconn) -> bool:
    """Return whether a session changed what values mean. It takes no round trip."""
    for name, value in _REPORTED:
        reported = server.parameter_status(name)
        # PgBouncer does not report all of them.
        if reported is not None and reported != value:
            return True
    return False
