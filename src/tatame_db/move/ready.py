"""Whether the target accepts new rows: sequences are set past the last id, and a row is inserted and rolled back."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from sqlalchemy import CheckConstraint

from tatame_db.database.dialect import DIALECT, literal, public, quoted
from tatame_db.errors import TatameError, fact
from tatame_db.move.catalogue import partitioned_tables, target_name
from tatame_db.move.connection import reason_without_values
from tatame_db.move.sequences import advance_sequence, next_id, sequence_of

if TYPE_CHECKING:
    from sqlalchemy import Column, Table

    from tatame_db.move.connection import MoveConnection

# The app may hold a sequence until the end of a transaction, and waits for it meanwhile.
_SEQUENCE_LOCK_TIMEOUT_MS = 200
_VALUES: dict[type, str] = {
    str: "gen_random_uuid()::text",
    UUID: "gen_random_uuid()",
    int: "0",
    float: "0",
    Decimal: "0",
    bool: "false",
    datetime: "now()",
    date: "now()",
    time: "now()",
    timedelta: "'0'",
    bytes: "''",
    list: "'{}'",
    dict: "'{}'",
}


@fact
class TrialInsertFailed(TatameError):
    """All rows are copied, and a new one cannot be added."""

    table: str
    reason: str
    what = "a trial insert into {table} failed: {reason}"
    means = (
        "Each table was proven as it was copied, but the app cannot add rows. The last comparison did not take place."
    )
    fix = "run `tatame-db check`, fix what differs from the models, then run the command again"


def make_ready(target: MoveConnection, table: Table, highest_id: int, *, changed: bool) -> None:
    """Let a table continue after the highest id that the source has handed out; commits.

    Analyzes the table if it has changed, or never was analyzed.
    """
    # `setval` is not rolled back, so this is no part of a transaction that may be.
    try:
        advance_sequence(target, table, highest_id)
    except psycopg.errors.NumericValueOutOfRange as error:
        reason = f"the largest id so far, {highest_id:,} or higher, is beyond the last value of its sequence"
        raise TrialInsertFailed(table=table.name, reason=reason) from error
    [analyzed] = target.row(f"SELECT reltuples >= 0 FROM pg_class WHERE oid = {literal(public(table.name))}::regclass")
    if changed or not analyzed:
        target.execute(f"ANALYZE {public(table.name)}")
    target.commit()


def prove_ready(target: MoveConnection, table: Table) -> None:
    """Insert a row, with the parents that it needs, and roll all of it back. Raises `TrialInsertFailed`."""
    # The app may use a sequence at this moment, or the role not own it: then the row takes an id for good.
    for keeps_ids in (True, False):
        tried: list[Table] = []
        try:
            _insert(target, table, tried, keeps_ids=keeps_ids)
        except psycopg.DatabaseError as error:
            if target.driver.closed:
                raise
            if not keeps_ids:
                _refuse(table, error, tried)
        else:
            return
        finally:
            if not target.driver.closed:
                target.driver.rollback()


def _refuse(table: Table, error: psycopg.DatabaseError, tried: list[Table]) -> None:
    if isinstance(error, psycopg.OperationalError):
        raise error
    if not _is_inconclusive(error, tried):
        raise TrialInsertFailed(table=table.name, reason=reason_without_values(error)) from error


def _keep_ids(target: MoveConnection, table: Table) -> None:
    """Let the rollback undo what an insert does to the sequence of a table.

    `nextval` is never rolled back, but `ALTER SEQUENCE` is: it writes the sequence again, and locks it until then.
    """
    if sequence := sequence_of(target, table):
        target.execute(f"SET LOCAL lock_timeout = {_SEQUENCE_LOCK_TIMEOUT_MS}")
        target.execute(f"ALTER SEQUENCE {sequence} RESTART WITH {next_id(target, sequence)}")


def _insert(target: MoveConnection, table: Table, tried: list[Table], *, keeps_ids: bool) -> Any:
    if keeps_ids:
        _keep_ids(target, table)
    tried.append(table)
    # Without parameters: the name of a column may be no name for one.
    expressions: dict[str, str] = {}
    for column in table.columns:
        if column.nullable or column.server_default is not None or column is table.autoincrement_column:
            continue
        if column.foreign_keys:
            [key] = column.foreign_keys
            parent = _parent(target, key.column.table, tried, keeps_ids=keeps_ids)
            expressions[column.name] = literal(str(parent))
        else:
            expressions[column.name] = _value(target, table, column)
    names = ", ".join(map(quoted, expressions))
    row = f"({names}) VALUES ({', '.join(expressions.values())})" if expressions else "DEFAULT VALUES"
    [[key]] = target.rows(f"INSERT INTO {public(table.name)} {row} RETURNING id")
    return key


def _value(target: MoveConnection, table: Table, column: Column[Any]) -> str:
    """Return an expression for a value that the column accepts: that of another row, otherwise an invented one."""
    try:
        invented = _VALUES.get(column.type.python_type, "NULL")
    except NotImplementedError:
        invented = "NULL"
    kind = column.type.compile(DIALECT)
    if not (column.unique or column.primary_key):
        # By a statement of its own: Citus has no subquery in an INSERT.
        name = quoted(column.name)
        found = target.rows(f"SELECT {name}::text FROM {public(table.name)} WHERE {name} IS NOT NULL LIMIT 1")
        invented = literal(found[0][0]) if found else invented
    return f"CAST({invented} AS {kind})"


def _is_inconclusive(error: psycopg.DatabaseError, tried: list[Table]) -> bool:
    """Return whether a rule of the models rejected the invented row, which says nothing about the rows of the app."""
    if isinstance(error, psycopg.errors.UniqueViolation):
        return error.diag.constraint_name not in {table.primary_key.name for table in tried}
    checks = {rule.name for table in tried for rule in table.constraints if isinstance(rule, CheckConstraint)}
    return isinstance(error, psycopg.errors.CheckViolation) and error.diag.constraint_name in checks


def _parent(target: MoveConnection, table: Table, tried: list[Table], *, keeps_ids: bool) -> Any:
    # A key refers to no row of a table that inherits from this one.
    found = target.rows(f"SELECT id FROM {target_name(table.name, partitioned_tables(target))} LIMIT 1")
    return found[0][0] if found else _insert(target, table, tried, keeps_ids=keeps_ids)
