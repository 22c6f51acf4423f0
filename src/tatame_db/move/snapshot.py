"""The moment at which a database is read, and the locks without which its tables would not be whole.

A snapshot does not protect from TRUNCATE, nor from statements that rewrite a table: to a snapshot that was taken
before them, the table is empty. So every table is locked in ACCESS SHARE MODE first, as a query does, and the snapshot
is taken afterwards: `LOCK TABLE` itself takes none.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import psycopg

from tatame_db.database.dialect import public
from tatame_db.errors import TatameError, fact
from tatame_db.evolve.lock import ignore
from tatame_db.move.catalogue import TABLES, SourceUnreadable
from tatame_db.move.connection import ConnectionLost
from tatame_db.schema import phases

if TYPE_CHECKING:
    from collections.abc import Callable

    from tatame_db.move.connection import MoveConnection

WAIT_SECONDS = 30.0
# Shorter than PostgreSQL's `deadlock_timeout`, so that a deadlock never ends the other session's transaction.
_LOCK_TIMEOUT_MS = 500
_PAUSE_SECONDS = 0.05
# A wait of that length is reported.
_SAY_AFTER_SECONDS = 1.0


@dataclass(frozen=True)
class LockWait:
    """Tables that a command waits for, and the processes of the server that hold their locks or wait ahead of it."""

    database: str
    tables: list[str]
    processes: list[int]

    def __str__(self) -> str:
        return f"tables of the {self.database} are locked: {', '.join(self.tables)}{_holders(self.processes)}"


def _holders(processes: list[int]) -> str:
    return f", by the process {', '.join(map(str, processes))}" if processes else ""


@fact
class TablesLocked(TatameError):
    """Tables that a command reads stay locked by another session."""

    database: str
    tables: list[str]
    processes: list[int]
    seconds: float
    what = "tables of the {database} are locked, also after {seconds:g} seconds: {tables}{holders}"
    means = "Unfinished work was rolled back."
    fix = (
        "wait until the other session ends, or end it with `SELECT pg_terminate_backend(…)`, then run the command again"
    )

    @property
    def holders(self) -> str:
        """The processes of the server that hold the locks, or wait for them ahead of us."""
        return _holders(self.processes)


@fact
class TablesChanging(TatameError):
    """Tables are created, dropped or rewritten again and again while a command begins to read them."""

    database: str
    tables: list[str]
    what = "tables of the {database} are being created, dropped or rewritten: {tables}"
    means = "Unfinished work was rolled back."
    fix = "wait until the schema changes end, then run the command again"


def fix_moment(
    connection: MoveConnection, exported: str | None = None, on_locked: Callable[[LockWait], None] = ignore
) -> None:
    """Let all later queries of the current connection see one moment, with every table whole.

    `exported` is the snapshot of a transaction that is still open, and shares its moment. `on_locked` is called once
    with the tables that are locked, if they are for more than a second. Tables without SELECT are not
    locked; `read_source_tables` refuses them. Raises `TablesLocked`, `TablesChanging`, `SourceUnreadable`,
    `ConnectionLost`.
    """
    started, said = time.monotonic(), False
    deadline = started + WAIT_SECONDS
    while True:
        names = _lockable_tables(connection)
        try:
            _lock(connection, names)
            _take_snapshot(connection, exported)
            changed = _changed_tables(connection)
        except psycopg.errors.UndefinedTable:
            changed = names
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            connection.driver.rollback()
            waited = time.monotonic() - started
            if waited > WAIT_SECONDS:
                raise TablesLocked(**asdict(_lock_wait(connection)), seconds=WAIT_SECONDS) from error
            if waited > _SAY_AFTER_SECONDS and not said:
                said = True
                on_locked(_lock_wait(connection))
            continue
        if not changed:
            return
        connection.driver.rollback()
        if time.monotonic() > deadline:
            raise TablesChanging(database=connection.name, tables=changed)
        time.sleep(_PAUSE_SECONDS)


def _lockable_tables(connection: MoveConnection) -> list[str]:
    """Return the tables that can be locked, in a transaction of its own, because reading them takes a snapshot."""
    connection.driver.rollback()
    connection.pin_settings(for_transaction=True)
    [usable] = connection.row("SELECT has_schema_privilege(to_regnamespace('public')::oid, 'USAGE')")
    if usable is False:
        raise SourceUnreadable(role=_role(connection), schema="public")
    rows = connection.rows(f"SELECT c.relname {_TABLES} AND c.relkind <> 'm' ORDER BY 1", _parameters(connection))
    connection.driver.rollback()
    return [name for (name,) in rows]


def _lock(connection: MoveConnection, names: list[str]) -> None:
    connection.pin_settings(for_transaction=True)
    if not names:
        return
    connection.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
    try:
        connection.execute(f"LOCK TABLE {', '.join(map(public, names))} IN ACCESS SHARE MODE")
    except psycopg.errors.InsufficientPrivilege as error:
        # A view is locked with the tables that it reads, and not everyone who may use it may read those.
        reason = str(error.diag.message_primary)
        connection.driver.rollback()
        raise SourceUnreadable(role=_role(connection), reason=reason) from error
    connection.execute("SET LOCAL lock_timeout = 0")


def _take_snapshot(connection: MoveConnection, exported: str | None) -> None:
    if exported:
        try:
            connection.execute(f"SET TRANSACTION SNAPSHOT '{exported}'")
        except (psycopg.errors.UndefinedObject, psycopg.errors.InvalidParameterValue) as error:
            # A snapshot ends with the transaction that exported it, and no other server knows it.
            reason = "the transaction that exported the snapshot has ended"
            raise ConnectionLost(database=connection.name, reason=reason) from error
    # The first query takes the snapshot. No command locks a materialized view without a query.
    for (name,) in connection.rows(f"SELECT c.relname {_TABLES} AND c.relkind = 'm'", _parameters(connection)):
        connection.rows(f"SELECT FROM {public(name)} LIMIT 0")


def _changed_tables(connection: MoveConnection) -> list[str]:
    """Return the tables of the snapshot that are not locked, or that were rewritten between snapshot and lock."""
    return [name for (name,) in connection.rows(_CHANGED, _parameters(connection))]


def _lock_wait(connection: MoveConnection) -> LockWait:
    """Return the tables that are locked now."""
    connection.pin_settings(for_transaction=True)
    rows = connection.rows(_LOCKED)
    connection.driver.rollback()
    tables, processes = sorted({table for table, _ in rows}), sorted({process for _, process in rows if process})
    return LockWait(connection.name, tables, processes)


def _parameters(connection: MoveConnection) -> dict[str, object]:
    return {"target_names": list(phases()), "all_tables": connection.name == "source"}


def _role(connection: MoveConnection) -> str:
    [role] = connection.row("SELECT current_user")
    return str(role)


# Of the target, only the tables of the models are read.
_TABLES = (
    f"FROM pg_class c WHERE {TABLES} AND c.relkind <> 'f' AND has_table_privilege(c.oid, 'SELECT')"
    " AND (%(all_tables)s OR c.relname = ANY(%(target_names)s))"
)
_LOCKS = (
    "pg_locks l WHERE l.locktype = 'relation'"
    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_OWN_LOCKS = f"{_LOCKS} AND l.pid = pg_backend_pid()"
_CHANGED = f"""
SELECT c.relname {_TABLES} AND c.oid NOT IN (SELECT l.relation FROM {_OWN_LOCKS})
UNION
SELECT c.relname FROM pg_class c WHERE c.oid IN (SELECT l.relation FROM {_OWN_LOCKS})
    -- The place of a table's rows, as the snapshot sees it, and as it is now. Some catalogues have 0 in their own.
    AND c.relfilenode <> 0 AND c.relfilenode <> pg_relation_filenode(c.oid)
ORDER BY 1
"""
# Only ACCESS EXCLUSIVE conflicts with a reader, also if it is still being waited for.
_LOCKED = f"""
SELECT c.relname, l.pid FROM (SELECT * FROM {_LOCKS}) l JOIN pg_class c ON c.oid = l.relation
WHERE l.mode = 'AccessExclusiveLock' AND c.relkind IN ('r', 'p', 'v', 'm')
"""
