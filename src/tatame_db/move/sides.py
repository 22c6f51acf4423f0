"""The two databases of a move: the source and the target, each read in one moment and never written here."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import psycopg
from sqlalchemy import text

from tatame_db import evolve
from tatame_db.database import OLDEST_SERVER, SyncDatabase, readable
from tatame_db.errors import NOTHING_CHANGED, TatameError
from tatame_db.evolve.run import exclusive
from tatame_db.move import state

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from sqlalchemy import URL, Connection, Engine

CONNECT_TIMEOUT_SECONDS = 15

# What a session says of itself must not show in the text of a value; `row_security = off` turns rows that a policy
# would hide into an error. Each holds for one transaction, so that a pooler may give the session to others afterwards.
_PINNED = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "row_security": "off",
    "search_path": "pg_catalog",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "jit": "off",
}


class SourceNotNamed(TatameError):
    """Nobody said where Supabase is."""

    def __init__(self) -> None:
        super().__init__(
            "the source is not named: `SUPABASE_DB_URL` is not set",
            means=NOTHING_CHANGED,
            fix="set `SUPABASE_DB_URL`, in the environment or in `.env`, to the address of Supabase's own PostgreSQL",
        )


class SourceNotReached(TatameError):
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

    def __init__(self, address: URL) -> None:
        super().__init__(
            f"source and target are the same database, {readable(address)}",
            means=NOTHING_CHANGED,
            fix="let `SUPABASE_DB_URL` name the Supabase project, and `DATABASE_URL` the database to move to",
        )


@dataclass(frozen=True)
class Side:
    """A database in one read-only transaction, so that every question sees the same moment."""

    name: str
    address: URL
    connection: psycopg.Connection[tuple[Any, ...]]

    def rows(self, query: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Run a query that was put together from quoted names; a `%` in it counts only beside parameters."""
        # As bytes: psycopg's types take a string for a query only where it stands in the code as it is.
        return self.connection.execute(query.encode(), parameters).fetchall()

    def row(self, query: str) -> tuple[Any, ...]:
        """Run a query that gives one row."""
        [found] = self.rows(query)
        return found

    def do(self, statement: str, parameters: dict[str, Any] | None = None) -> int:
        """Run a statement and say how many rows it wrote."""
        return self.connection.execute(statement.encode(), parameters).rowcount

    @property
    def identity(self) -> tuple[int, int]:
        """What tells this database from every other one, however it is reached."""
        system, database = self.row(
            "SELECT (SELECT system_identifier FROM pg_control_system()), oid::bigint"
            " FROM pg_database WHERE datname = current_database()"
        )
        return system, database

    @property
    def version(self) -> str:
        """The version of the server."""
        [words] = self.row("SELECT current_setting('server_version')")
        return str(words).split()[0]


@dataclass(frozen=True)
class Sides:
    """Both databases."""

    source: Side
    target: Side

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
                self.source.connection.cancel_safe()
                raise


@contextlib.contextmanager
def opened(source: URL, target: Engine) -> Generator[Sides]:
    """Open both for reading, each in one moment; nothing is written, whatever is asked.

    Raises `SourceNotReached`, `SourceTooOld`, `SameDatabase`, `SchemaBehind`, `ConnectionLost`.
    """
    with target.connect() as checked:
        evolve.refuse_incomplete(checked)
    with _source(source) as source_side, _target(target) as target_side:
        if source_side.identity == target_side.identity:
            raise SameDatabase(target.url)
        yield Sides(source_side, target_side)


@contextlib.contextmanager
def target_opened(target: Engine) -> Generator[Side]:
    """Open the target alone for reading in one moment. Raises `SchemaBehind`, `ConnectionLost`."""
    with target.connect() as checked:
        evolve.refuse_incomplete(checked)
    with _target(target) as side:
        yield side


def left_open(target: Engine) -> list[str]:
    """Name the foreign keys and indexes that an unfinished move left away or unchecked, whatever the schema."""
    with _target(target) as side:
        return state.left_open(side)


@contextlib.contextmanager
def opened_for_writing(source: URL, target: Engine, on_wait: Callable[[], None]) -> Generator[Sides]:
    """Open the source for reading in one moment, and the target for transactions of the caller's own.

    Holds the lock on schema changes, for a copy changes the schema for a while; it ends with us, however we end.
    Raises what `opened` raises.
    """
    patience = evolve.Patience(statement_timeout_ms=0, on_wait=on_wait)
    with exclusive(target, patience) as locked, _source(source) as source_side:
        evolve.refuse_incomplete(locked)
        locked.rollback()
        driver = _driver(locked)
        target_side = Side("target", target.url, driver)
        _pin(target_side, for_transaction=False)
        if source_side.identity == target_side.identity:
            raise SameDatabase(target.url)
        driver.commit()
        with _explained(target_side):
            yield Sides(source_side, target_side)


@contextlib.contextmanager
def beside(sides: Sides, snapshot: str) -> Generator[Sides]:
    """Open what `opened_for_writing` gave once more: the source in the same moment, the target without the lock.

    The snapshot is one that the source's transaction exported, which has to last until then.
    """
    with (
        _source(sides.source.address, snapshot) as source,
        SyncDatabase(sides.target.address) as database,
        database.engine.connect() as connection,
    ):
        # When we are killed, the server notices within a second and undoes what was begun.
        connection.execute(text("SET client_connection_check_interval = '1s'"))
        connection.execute(text("SET idle_session_timeout = 0"))
        connection.execute(text(f"SET lock_timeout = {evolve.Patience().lock_timeout_ms}"))
        connection.commit()
        target = Side("target", sides.target.address, _driver(connection))
        _pin(target, for_transaction=False)
        target.connection.commit()
        try:
            with _explained(target):
                yield Sides(source, target)
        finally:
            connection.invalidate()


@contextlib.contextmanager
def _source(address: URL, snapshot: str | None = None) -> Generator[Side]:
    _, options = address.get_dialect()().create_connect_args(address)
    defaults: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, "application_name": "tatame-db move"}
    try:
        # Supabase's pooler on port 6543 gives each transaction another session, which knows no prepared statements.
        connection = psycopg.connect(**{**defaults, **options}, prepare_threshold=None)
    except psycopg.OperationalError as error:
        raise SourceNotReached(address, str(error).splitlines()[0]) from error
    with contextlib.closing(connection):
        if connection.info.server_version < OLDEST_SERVER * 10_000:
            raise SourceTooOld(address, connection.info.server_version // 10_000)
        yield from _reading(Side("source", address, connection), snapshot)


@contextlib.contextmanager
def _target(engine: Engine) -> Generator[Side]:
    with engine.connect() as connection:
        try:
            yield from _reading(Side("target", engine.url, _driver(connection)))
        finally:
            # What was set on it for reading ends with it.
            connection.invalidate()


def _driver(connection: Connection) -> psycopg.Connection[tuple[Any, ...]]:
    return cast("psycopg.Connection[tuple[Any, ...]]", connection.connection.driver_connection)


def _reading(side: Side, snapshot: str | None = None) -> Generator[Side]:
    connection = side.connection
    connection.rollback()
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    with _explained(side):
        if snapshot:
            side.do(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
        _pin(side, for_transaction=True)
        yield side


def _pin(side: Side, *, for_transaction: bool) -> None:
    side.rows(
        "SELECT set_config(key, value, %(local)s) FROM json_each_text(%(settings)s::json)",
        {"local": for_transaction, "settings": json.dumps(_PINNED)},
    )


@contextlib.contextmanager
def _explained(side: Side) -> Generator[None]:
    try:
        yield
    except psycopg.OperationalError as error:
        if side.connection.broken:
            raise ConnectionLost(side.name, str(error).splitlines()[0]) from error
        raise
