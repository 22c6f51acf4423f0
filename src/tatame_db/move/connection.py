"""The two databases of a move: the source and the target, each read in one moment and never written here."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import psycopg
from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError

from tatame_db import evolve
from tatame_db.database.address import readable
from tatame_db.database.dialect import OLDEST_SERVER
from tatame_db.database.pool import Database
from tatame_db.database.text_output import TEXT_OUTPUT
from tatame_db.errors import NOTHING_CHANGED, TatameError
from tatame_db.evolve.lock import LOCK_TIMEOUT_MS, exclusive, undo_when_killed
from tatame_db.move import record

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection, Engine

    from tatame_db.move.rest import RestReading

CONNECT_TIMEOUT_SECONDS = 15
# No single answer takes that long; a proxy that has lost its server may keep us waiting for ever.
SILENCE_SECONDS = 1_800
_CANCEL_SECONDS = 2
# A machine that went away is noticed after a minute.
_TCP = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}

# What a session says of itself must not show in the text of a value; `row_security = off` turns rows that a policy
# would hide into an error. Each holds for one transaction, so that a pooler may give the session to others afterwards.
_PINNED = {
    **TEXT_OUTPUT,
    "row_security": "off",
    "search_path": "pg_catalog",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "jit": "off",
}


class SourceNotConfigured(TatameError):
    """Nobody said where Supabase is."""

    def __init__(self) -> None:
        super().__init__(
            "the source is not named: `SUPABASE_DB_URL` is not set, nor `SUPABASE_URL` with a key",
            means=NOTHING_CHANGED,
            fix="set `SUPABASE_DB_URL`, in the environment or in `.env`, to the address of Supabase's own PostgreSQL;"
            " where it cannot be reached, `SUPABASE_URL` and `SUPABASE_SERVICE_ROLE_KEY`",
        )


class SourceUnreachable(TatameError):
    """The source does not let us in, or is not there."""

    def __init__(self, address: URL, words: str) -> None:
        self.address = address
        super().__init__(
            f"the source does not answer at {readable(address)}: {words}",
            means=NOTHING_CHANGED,
            fix="check `SUPABASE_DB_URL`; where IPv6 does not work, take the address of the session pooler",
        )


class SourceTooOld(TatameError):
    """The source is older than we support."""

    def __init__(self, address: URL, major: int) -> None:
        super().__init__(
            f"the source at {readable(address)} is PostgreSQL {major}; {OLDEST_SERVER} is the oldest supported",
            means=NOTHING_CHANGED,
            fix="upgrade the Supabase project first",
        )


class ConnectionLost(TatameError):
    """One of the two databases went away while it was read."""

    def __init__(self, side: str, words: str) -> None:
        self.side = side
        super().__init__(
            f"the connection to the {side} was lost: {words}",
            means="What was not finished is undone, and nothing is known about what was not read yet.",
            fix="run the command again",
        )


class SameDatabase(TatameError):
    """Source and target are one database."""

    def __init__(self, where: str) -> None:
        super().__init__(
            f"source and target are the same database, {where}",
            means=NOTHING_CHANGED,
            fix="let `SUPABASE_DB_URL` (or `SUPABASE_URL`) name the Supabase project, and `DATABASE_URL` the database"
            " to move to",
        )


@dataclass(frozen=True)
class MoveConnection:
    """A database in one read-only transaction, so that every question sees the same moment."""

    name: str
    address: URL
    driver: psycopg.Connection[tuple[Any, ...]]
    rest: RestReading | None = None
    """How it was read, where this is a copy of what a source gave over REST."""
    reread: Callable[[], AbstractContextManager[MoveConnection]] | None = None
    """Reads such a source once more, for the copy proves nothing of it; this side is lost by that."""

    def rows(self, query: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Run a query that was put together from quoted names; a `%` in it counts only beside parameters."""
        with watchdog(self):
            # As bytes: psycopg's types take a string for a query only where it stands in the code as it is.
            return self.driver.execute(query.encode(), parameters).fetchall()

    def row(self, query: str) -> tuple[Any, ...]:
        """Run a query that gives one row."""
        [found] = self.rows(query)
        return found

    def execute(self, statement: str, parameters: dict[str, Any] | None = None) -> int:
        """Run a statement and say how many rows it wrote."""
        return self.driver.execute(statement.encode(), parameters).rowcount

    def abort(self) -> None:
        """End what runs, and close the way there, so that nobody waits for an answer; from another thread."""
        with contextlib.suppress(psycopg.Error, OSError):
            self.driver.cancel_safe(timeout=_CANCEL_SECONDS)
        with contextlib.suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(self.driver.fileno())) as way:
            way.shutdown(socket.SHUT_RDWR)

    @property
    def identity(self) -> tuple[int | str, ...]:
        """What tells this database from every other one, however it is reached."""
        if self.rest:
            return self.rest.identity
        system, database = self.row(
            "SELECT (SELECT system_identifier FROM pg_control_system()), oid::bigint"
            " FROM pg_database WHERE datname = current_database()"
        )
        return system, database

    @property
    def readable(self) -> str:
        """Where it is, without a password."""
        return self.rest.address if self.rest else readable(self.address)

    @property
    def version(self) -> str:
        """The version of the server."""
        if self.rest:
            return self.rest.version
        [words] = self.row("SELECT current_setting('server_version')")
        return str(words).split()[0]


class Source(Protocol):
    """A source that is more than an address of PostgreSQL."""

    @property
    def readable(self) -> str:
        """Where it is."""
        ...

    def is_same_as(self, target: MoveConnection) -> bool:
        """Say whether its tables are those of the target, as far as that can be told."""
        ...

    def open(self, target: MoveConnection) -> AbstractContextManager[MoveConnection]:
        """Open it for reading, with all that the target is compared with."""
        ...


@dataclass(frozen=True)
class Connections:
    """Both databases."""

    source: MoveConnection
    target: MoveConnection

    def rows(
        self,
        source_query: str,
        target_query: str,
        parameters: dict[str, Any] | None = None,
    ) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Ask both servers at once."""
        with ThreadPoolExecutor(1) as other:
            waiting = other.submit(self.source.rows, source_query, parameters)
            try:
                target = self.target.rows(target_query, parameters)
                return waiting.result(), target
            except BaseException:
                # Nobody waits for the other answer, and Ctrl-C must not either.
                self.source.abort()
                raise


@contextlib.contextmanager
def watchdog(*connections: MoveConnection) -> Generator[Callable[[], None]]:
    """Give sides up that are silent for too long, one after the other; call what is given whenever something was heard.

    Raises `ConnectionLost`.
    """
    heard, done = time.monotonic(), threading.Event()
    silent: list[str] = []

    def heartbeat() -> None:
        nonlocal heard
        heard = time.monotonic()

    def watch() -> None:
        while (patience := heard + SILENCE_SECONDS - time.monotonic()) > 0:
            if done.wait(patience):
                return
        for side in connections:
            silent.append(side.name)
            side.abort()
            # Who waited for this side is free now.
            if done.wait(_CANCEL_SECONDS):
                return

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield heartbeat
    except psycopg.Error as error:
        if silent:
            raise ConnectionLost(silent[-1], f"it was silent for {SILENCE_SECONDS / 60:.0f} minutes") from error
        raise
    finally:
        done.set()
        watching.join()


@contextlib.contextmanager
def open_for_reading(source: URL | Source, target: Engine) -> Generator[Connections]:
    """Open both for reading, each in one moment; nothing is written, whatever is asked.

    Raises `SourceNotReached`, `SourceTooOld`, `SameDatabase`, `SchemaBehind`, `ConnectionLost`.
    """
    with _target(target, source) as target_side, _source(source, target_side) as source_side:
        yield Connections(source_side, target_side)


@contextlib.contextmanager
def open_target(target: Engine, source: Source | None = None) -> Generator[MoveConnection]:
    """Open the target alone for reading in one moment. Raises `SchemaBehind`, `ConnectionLost`.

    Given a source too, a target that is not migrated may raise `SameDatabase` instead.
    """
    with _target(target, source) as side:
        yield side


def left_open(target: Engine) -> list[str]:
    """Name the foreign keys and indexes that an unfinished move left away or unchecked, whatever the schema."""
    with _target(target, complete=False) as side:
        return record.left_open(side)


def ending(target: Engine) -> str:
    """Return the command that ends an unfinished move, with the choices of its last run, whatever the schema."""
    with _target(target, complete=False) as side:
        return record.ending(side)


@contextlib.contextmanager
def open_for_writing(source: URL | Source, target: Engine, on_wait: Callable[[], None]) -> Generator[Connections]:
    """Open the source for reading in one moment, and the target for transactions of the caller's own.

    Holds the lock on schema changes, for a copy changes the schema for a while; it ends with us, however we end.
    Raises what `opened` raises.
    """
    timeouts = evolve.Timeouts(statement_timeout_ms=0, on_wait=on_wait)
    with _target_explained(), exclusive(target, timeouts) as locked:
        _refuse_incomplete(locked, source)
        locked.rollback()
        driver = _driver(locked)
        target_side = MoveConnection("target", target.url, driver)
        _pin(target_side, for_transaction=False)
        with _source(source, target_side) as source_side, _explained(target_side):
            driver.commit()
            yield Connections(source_side, target_side)


@contextlib.contextmanager
def reopen(connections: Connections, snapshot: str) -> Generator[Connections]:
    """Open what `opened_for_writing` gave once more: the source in the same moment, the target without the lock.

    The snapshot is one that the source's transaction exported, which has to last until then.
    """
    with (
        open_source(connections.source.address, snapshot) as source,
        Database(connections.target.address) as database,
        database.engine.connect() as connection,
    ):
        undo_when_killed(connection)
        connection.execute(text(f"SET lock_timeout = {LOCK_TIMEOUT_MS}"))
        connection.commit()
        target = MoveConnection("target", connections.target.address, _driver(connection))
        _pin(target, for_transaction=False)
        target.driver.commit()
        try:
            with _explained(target):
                yield Connections(
                    replace(source, rest=connections.source.rest, reread=connections.source.reread), target
                )
        finally:
            connection.invalidate()


@contextlib.contextmanager
def _source(source: URL | Source, target: MoveConnection) -> Generator[MoveConnection]:
    if isinstance(source, URL):
        with open_source(source) as side:
            if side.identity == target.identity:
                raise SameDatabase(side.readable)
            yield side
        return
    _refuse_same(source, target)
    with source.open(target) as side:
        yield side


@contextlib.contextmanager
def open_source(address: URL, snapshot: str | None = None) -> Generator[MoveConnection]:
    """Open a source for reading in one moment, or in that of an exported snapshot.

    Raises `SourceNotReached`, `SourceTooOld`, `ConnectionLost`.
    """
    _, options = address.get_dialect()().create_connect_args(address)
    named = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, "application_name": "tatame-db move"}
    defaults: dict[str, Any] = named | _TCP
    try:
        # Supabase's pooler on port 6543 gives each transaction another session, which knows no prepared statements.
        connection = psycopg.connect(**{**defaults, **options}, prepare_threshold=None)
    except psycopg.OperationalError as error:
        raise SourceUnreachable(address, str(error).splitlines()[0]) from error
    with contextlib.closing(connection):
        if connection.info.server_version < OLDEST_SERVER * 10_000:
            raise SourceTooOld(address, connection.info.server_version // 10_000)
        yield from _read_only(MoveConnection("source", address, connection), snapshot)


@contextlib.contextmanager
def _target(engine: Engine, source: URL | Source | None = None, *, complete: bool = True) -> Generator[MoveConnection]:
    with _target_explained(), engine.connect() as connection:
        if complete:
            _refuse_incomplete(connection, source)
        try:
            yield from _read_only(MoveConnection("target", engine.url, _driver(connection)))
        finally:
            # What was set on it for reading ends with it.
            connection.invalidate()


def _refuse_incomplete(connection: Connection, source: URL | Source | None) -> None:
    try:
        evolve.refuse_incomplete(connection)
    except (evolve.SchemaBehind, evolve.TablesMissing):
        # Who followed its hint would migrate Supabase's own database, where that is named as the target.
        if source:
            _refuse_same(source, MoveConnection("target", connection.engine.url, _driver(connection)))
        raise


def _refuse_same(source: URL | Source, target: MoveConnection) -> None:
    if isinstance(source, URL):
        with open_source(source) as side:
            if side.identity == target.identity:
                raise SameDatabase(side.readable)
    elif source.is_same_as(target):
        raise SameDatabase(source.readable)


def _driver(connection: Connection) -> psycopg.Connection[tuple[Any, ...]]:
    return cast("psycopg.Connection[tuple[Any, ...]]", connection.connection.driver_connection)


def _read_only(side: MoveConnection, snapshot: str | None = None) -> Generator[MoveConnection]:
    connection = side.driver
    connection.rollback()
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    with _explained(side):
        if snapshot:
            side.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
        _pin(side, for_transaction=True)
        yield side


def _pin(side: MoveConnection, *, for_transaction: bool) -> None:
    side.rows(
        "SELECT set_config(key, value, %(local)s) FROM json_each_text(%(settings)s::json)",
        {"local": for_transaction, "settings": json.dumps(_PINNED)},
    )


@contextlib.contextmanager
def _target_explained() -> Generator[None]:
    try:
        yield
    except DBAPIError as error:
        if error.connection_invalidated:
            raise ConnectionLost("target", str(error.orig).splitlines()[0]) from error
        raise


@contextlib.contextmanager
def _explained(side: MoveConnection) -> Generator[None]:
    try:
        yield
    except psycopg.OperationalError as error:
        if side.driver.broken:
            raise ConnectionLost(side.name, str(error).splitlines()[0]) from error
        raise
