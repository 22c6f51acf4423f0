"""Opening the two databases of a move: the source only to read, the target to read or to write."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
from sqlalchemy import URL, text

from tatame_db import evolve
from tatame_db.database.address import parse_address, readable, without_environment
from tatame_db.database.citus import SESSION_IN_SEQUENCE
from tatame_db.database.dialect import OLDEST_SERVER
from tatame_db.database.driver import driver_connection
from tatame_db.database.errors import DatabaseUnavailable
from tatame_db.database.pool import Database
from tatame_db.errors import TatameError, fact
from tatame_db.evolve.lock import LOCK_TIMEOUT_MS, exclusive, ignore, undo_when_killed
from tatame_db.move.connection import Connections, MoveConnection, report_loss, report_loss_of_target
from tatame_db.move.snapshot import fix_moment
from tatame_db.move.switch.token import admit, token_of
from tatame_db.roles import explained
from tatame_db.roles.missing import refuse_missing

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection, Engine

    from tatame_db.move.snapshot import LockWait

CONNECT_TIMEOUT_SECONDS = 15
# A dead host is detected within a minute.
_KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}


@fact
class SourceNotConfigured(TatameError):
    """No setting names the source, or its key is missing."""

    rest_address: str | None
    what = "no source configured: {reason}"
    fix = (
        "set `SUPABASE_DB_URL`, in the environment or in `.env`, to the address of Supabase's own PostgreSQL; if that"
        " cannot be reached, set `SUPABASE_URL` and `SUPABASE_SERVICE_ROLE_KEY`"
    )

    @property
    def reason(self) -> str:
        """The setting that is missing."""
        if self.rest_address:
            return f"{self.rest_address} needs a key, and `SUPABASE_SERVICE_ROLE_KEY` is not set"
        return "neither `SUPABASE_DB_URL` nor `SUPABASE_URL` is set"


@fact
class SourceUnreachable(TatameError):
    """The source rejected the connection or does not exist."""

    address: URL
    reason: str
    what = "could not connect to the source at {where}: {reason}"
    fix = "{advice}"

    @property
    def advice(self) -> str:
        """What to change, by the reason."""
        if "password" in self.reason:
            return "correct the password in `SUPABASE_DB_URL`; the dashboard of the project can set a new one"
        if "resolve" in self.reason or "unreachable" in self.reason or "time" in self.reason:
            return "check the host in `SUPABASE_DB_URL`; on a network without IPv6, use that of the session pooler"
        return "correct `SUPABASE_DB_URL`, which the dashboard of the project shows under Connect"

    @property
    def where(self) -> str:
        """The address, without a password."""
        return readable(self.address)


@fact
class SourceTooOld(TatameError):
    """The source runs a PostgreSQL that is not supported."""

    address: URL
    major: int
    oldest = OLDEST_SERVER
    what = "the source at {where} is PostgreSQL {major}; {oldest} is the oldest supported version"
    fix = "upgrade the Supabase project first"

    @property
    def where(self) -> str:
        """The address, without a password."""
        return readable(self.address)


@fact
class SameDatabase(TatameError):
    """Source and target are one database."""

    where: str
    what = "source and target are the same database, {where}"
    fix = (
        "set `SUPABASE_DB_URL` (or `SUPABASE_URL`) to the Supabase project, and `DATABASE_URL` to the database that"
        " receives the data"
    )


@fact
class EncodingUnsupported(TatameError):
    """A database stores text in another encoding than UTF8, in which the same text has other bytes, or none."""

    database: str
    encoding: str
    what = "the {database} has the encoding {encoding}; only UTF8 can be copied and compared"
    fix = "{advice}"

    @property
    def advice(self) -> str:
        """How to get a database with the encoding UTF8."""
        if self.database == "source":
            return "restore a dump of the source into a database with the encoding UTF8, and move from there"
        return "create the target again: `CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0`"


@fact
class KeysNotEnforced(TatameError):
    """A setting of the target turns off foreign keys and triggers for all that its role writes."""

    role: str
    what = "`session_replication_role` of the target turns off foreign keys and triggers for the role {role}"
    fix = "let a superuser run `ALTER ROLE {role} RESET session_replication_role`; a database may have the setting too"


@fact
class JobNotConnected(TatameError):
    """A server that has let the first connection in refuses the one of a job."""

    database: str
    reason: str
    what = "the {database} refused a connection for `--jobs`: {reason}"
    means = "Unfinished work was rolled back; tables that were proven before stay committed."
    fix = "run the command with `--jobs 1`, or let the role open more connections"


class Source(Protocol):
    """A source that is not simply the address of a PostgreSQL server."""

    @property
    def readable(self) -> str:
        """Its address, without a password or a key."""
        ...

    def is_same_as(self, target: MoveConnection) -> bool:
        """Return whether its tables are those of the target, as far as the source lets that be determined."""
        ...

    def open(self, target: MoveConnection) -> AbstractContextManager[MoveConnection]:
        """Open it for reading, with all that a comparison with the target needs."""
        ...


@contextlib.contextmanager
def open_for_reading(
    source: URL | str | Source, target: Engine, on_locked: Callable[[LockWait], None] = ignore
) -> Generator[Connections]:
    """Open both databases in a read-only transaction each, so that every query sees them at one moment.

        with move.open_for_reading("postgresql://…", db.engine) as connections:
            proof = move.verify(connections)

    `on_locked` is called if tables of one of them are locked for more than a second. Raises `SourceUnreachable`,
    `SourceTooOld`, `EncodingUnsupported`, `SameDatabase`, `SchemaBehind`, `TablesLocked`, `TablesChanging`,
    `ConnectionLost`.
    """
    source = _parsed(source)
    with (
        open_target(target, source, on_locked=on_locked) as opened_target,
        _open_source(source, opened_target, on_locked) as opened_source,
    ):
        yield Connections(opened_source, opened_target)


@contextlib.contextmanager
def open_for_writing(
    source: URL | str | Source,
    target: Engine,
    on_wait: Callable[[], None] = ignore,
    on_locked: Callable[[LockWait], None] = ignore,
) -> Generator[Connections]:
    """Open the source in a read-only transaction, and the target outside of one: the caller commits.

        with Database.from_env() as db:
            with move.open_for_writing("postgresql://…", db.engine) as connections:
                report = move.copy(connections, choices=move.Choices(misfits="null"))
        print(f"{sum(table.written for table in report.tables):,} rows written, as of {report.moment}")

    Holds the lock on schema changes until the end, because a copy drops keys and indexes for a while; it ends with
    this process, however it ends. `on_wait` is called once if another process holds it, and `on_locked` if tables of
    the source are locked for more than a second. Raises what `open_for_reading` raises, `DirectAddressNeeded` for a
    target behind a pooler, and `KeysNotEnforced`.
    """
    source = _parsed(source)
    with (
        _target_for_writing(source, target, on_wait) as opened_target,
        _open_source(source, opened_target, on_locked) as opened_source,
        report_loss(opened_target),
    ):
        opened_target.commit()
        yield Connections(opened_source, opened_target)


@contextlib.contextmanager
def open_both_for_writing(
    source: URL | str, target: Engine, on_wait: Callable[[], None] = ignore
) -> Generator[Connections]:
    """Open both databases for statements that write, outside of a transaction: the caller begins and commits.

    The target's session passes the fence and holds the lock on schema changes; transactions of the source need
    `pin_settings`, and `token.admit` to write rows. Raises what `open_for_writing` raises.
    """
    address = parse_address(source) if isinstance(source, str) else source
    with (
        _target_for_writing(address, target, on_wait) as opened_target,
        open_source_for_writing(address) as opened_source,
        report_loss(opened_target),
    ):
        if opened_source.identity == opened_target.identity:
            raise SameDatabase(where=opened_source.readable)
        opened_source.driver.rollback()
        opened_target.commit()
        yield Connections(opened_source, opened_target)


@contextlib.contextmanager
def _target_for_writing(source: URL | Source, target: Engine, on_wait: Callable[[], None]) -> Generator[MoveConnection]:
    timeouts = evolve.Timeouts(statement_timeout_ms=0, on_wait=on_wait)
    with (
        explained(target.url, "move copy", alone=False),
        report_loss_of_target(),
        exclusive(target, timeouts) as locked,
    ):
        _refuse_incomplete(locked, source, "move copy")
        locked.rollback()
        opened = MoveConnection("target", target.url, driver_connection(locked))
        _refuse_encoding(opened)
        _pin_target(opened)
        yield opened


def _parsed(source: URL | str | Source) -> URL | Source:
    return parse_address(source) if isinstance(source, str) else source


@contextlib.contextmanager
def reopen(connections: Connections, snapshot: str) -> Generator[Connections]:
    """Open a second pair of connections beside one from `open_for_writing`.

    The source is seen at the moment of `snapshot`, which the source's own transaction exported; that transaction has
    to stay open until then. The target is opened without the lock on schema changes. Raises `JobNotConnected`,
    `ConnectionLost`, `TablesLocked`.
    """
    first = connections.source
    with contextlib.ExitStack() as opened:
        # The first connections have worked, and changes are committed already.
        try:
            source = opened.enter_context(open_source(first.server_address, snapshot))
        except SourceUnreachable as error:
            raise JobNotConnected(database="source", reason=error.reason) from error
        database = opened.enter_context(Database(connections.target.server_address))
        try:
            connection = opened.enter_context(database.engine.connect())
        except DatabaseUnavailable as error:
            raise JobNotConnected(database="target", reason=error.what) from error
        undo_when_killed(connection)
        connection.execute(text(f"SET lock_timeout = {LOCK_TIMEOUT_MS}"))
        connection.commit()
        target = replace(connections.target, driver=driver_connection(connection))
        _pin_target(target)
        target.commit()
        try:
            with report_loss(target):
                yield Connections(replace(source, rest=first.rest, reread=first.reread), target)
        finally:
            # The settings belong to the session, so it must not go back to a pool.
            connection.invalidate()


@contextlib.contextmanager
def open_second_session(target: MoveConnection) -> Generator[MoveConnection]:
    """Open another session of the target, outside of a transaction: for a slot, or to ask how a commit ended.

    Raises `DatabaseUnavailable`.
    """
    with Database(target.server_address) as database, database.engine.connect() as connection:
        undo_when_killed(connection)
        connection.commit()
        try:
            yield replace(target, driver=driver_connection(connection))
        finally:
            # Its mode may be another one by now.
            connection.invalidate()


def _refuse_encoding(connection: MoveConnection) -> None:
    # Every server reports it, and a pooler passes it on or does not; digests that differ remain as a safeguard.
    encoding = connection.driver.info.parameter_status("server_encoding")
    if encoding not in ("UTF8", None):
        raise EncodingUnsupported(database=connection.name, encoding=encoding)


def _pin_target(target: MoveConnection) -> None:
    """Pin the settings of a session that writes, and let it pass the fence. Raises `KeysNotEnforced`."""
    target.pin_settings(for_transaction=False)
    target.rows(SESSION_IN_SEQUENCE)
    if token := token_of(target):
        admit(target, token, for_transaction=False)
    target.note_commits_not_replicated()
    # A commit that is reported must be on the disk.
    target.rows(
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
    )
    try:
        # Only a few roles may set it, so it is not set without need.
        target.rows(
            "SELECT set_config('session_replication_role', 'origin', false)"
            " WHERE current_setting('session_replication_role') <> 'origin'"
        )
    except psycopg.errors.InsufficientPrivilege as error:
        target.driver.rollback()
        [role] = target.row("SELECT current_user")
        raise KeysNotEnforced(role=role) from error


@contextlib.contextmanager
def open_target(
    target: Engine,
    source: URL | Source | None = None,
    *,
    check_schema: bool = True,
    on_locked: Callable[[LockWait], None] = ignore,
) -> Generator[MoveConnection]:
    """Open the target alone, in a read-only transaction. Raises `SchemaBehind`, `RightsMissing`, `ConnectionLost`.

    With `source`, raises `SameDatabase` for a target that is not migrated because it is the source. With
    `check_schema`, its tables are locked as those of a source are; otherwise only the record of the move can be read.
    """
    command = "move verify" if check_schema else "status"
    with explained(target.url, command, alone=False), report_loss_of_target(), target.connect() as connection:
        if check_schema:
            _refuse_incomplete(connection, source, command)
        try:
            opened = MoveConnection("target", target.url, driver_connection(connection))
            if check_schema:
                _refuse_encoding(opened)
            with _read_only(opened, reads_tables=check_schema, on_locked=on_locked):
                if check_schema:
                    refuse_missing(opened.rows, command)
                yield opened
        finally:
            # It is read-only for good, so it must not go back to the pool.
            connection.invalidate()


@contextlib.contextmanager
def open_source(
    address: URL, snapshot: str | None = None, on_locked: Callable[[LockWait], None] = ignore
) -> Generator[MoveConnection]:
    """Open a PostgreSQL source in a read-only transaction, at the moment of an exported snapshot if one is passed.

    Raises `SourceUnreachable`, `SourceTooOld`, `TablesLocked`, `TablesChanging`, `ConnectionLost`.
    """
    with _connect_to_source(address) as opened, _read_only(opened, snapshot, on_locked=on_locked):
        yield opened


@contextlib.contextmanager
def open_source_for_writing(address: URL) -> Generator[MoveConnection]:
    """Open a PostgreSQL source for statements that write: slots, triggers, and rows on the way back.

    It is outside of a transaction. A pooler may hand the session to another client, so `pin_settings` belongs to each
    transaction. Raises `SourceUnreachable`, `SourceTooOld`, `EncodingUnsupported`, `ConnectionLost`.
    """
    with _connect_to_source(address) as opened, report_loss(opened):
        yield opened


@contextlib.contextmanager
def open_target_for_slots(target: Engine) -> Generator[MoveConnection]:
    """Open the target for statements about its slots, outside of a transaction. Raises `ConnectionLost`."""
    with report_loss_of_target(), Database(target.url) as database, database.engine.connect() as connection:
        opened = MoveConnection("target", target.url, driver_connection(connection))
        opened.driver.rollback()
        try:
            with report_loss(opened):
                yield opened
        finally:
            # The settings belong to the session, so it must not go back to a pool.
            connection.invalidate()


@contextlib.contextmanager
def _connect_to_source(address: URL) -> Generator[MoveConnection]:
    _, options = address.get_dialect()().create_connect_args(address)
    named = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, "application_name": "tatame-db move"}
    defaults: dict[str, Any] = without_environment(address) | named | _KEEPALIVE
    try:
        # Supabase's pooler on port 6543 runs each transaction in another session, which lacks prepared statements.
        driver = psycopg.connect(**{**defaults, **options}, prepare_threshold=None)
    except psycopg.OperationalError as error:
        raise SourceUnreachable(address=address, reason=str(error).splitlines()[0]) from error
    with contextlib.closing(driver):
        major = driver.info.server_version // 10_000
        if major < OLDEST_SERVER:
            raise SourceTooOld(address=address, major=major)
        opened = MoveConnection("source", address, driver)
        _refuse_encoding(opened)
        yield opened


@contextlib.contextmanager
def _open_source(
    source: URL | Source, target: MoveConnection, on_locked: Callable[[LockWait], None]
) -> Generator[MoveConnection]:
    if isinstance(source, URL):
        with open_source(source, on_locked=on_locked) as opened:
            if opened.identity == target.identity:
                raise SameDatabase(where=opened.readable)
            yield opened
        return
    _refuse_same(source, target)
    with source.open(target) as opened:
        yield opened


@contextlib.contextmanager
def _read_only(
    connection: MoveConnection,
    snapshot: str | None = None,
    *,
    reads_tables: bool = True,
    on_locked: Callable[[LockWait], None] = ignore,
) -> Generator[None]:
    driver = connection.driver
    driver.rollback()
    driver.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    driver.read_only = True
    # Several statements in one message, as in `pin_settings`, cannot be prepared.
    driver.prepare_threshold = None
    with report_loss(connection):
        if reads_tables:
            fix_moment(connection, snapshot, on_locked)
        else:
            connection.pin_settings(for_transaction=True)
        yield


def _refuse_incomplete(connection: Connection, source: URL | Source | None, command: str) -> None:
    try:
        evolve.refuse_incomplete(connection, command)
    except (evolve.SchemaBehind, evolve.TablesMissing):
        # The hint says to migrate the target, which must not be Supabase's own database.
        if source:
            _refuse_same(source, MoveConnection("target", connection.engine.url, driver_connection(connection)))
        raise


def _refuse_same(source: URL | Source, target: MoveConnection) -> None:
    if isinstance(source, URL):
        with open_source(source) as opened:
            if opened.identity == target.identity:
                raise SameDatabase(where=opened.readable)
    elif source.is_same_as(target):
        raise SameDatabase(where=source.readable)
