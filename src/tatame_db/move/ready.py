"""Whether the target accepts new rows: sequences are set past the last id, and a row is inserted and rolled back."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from sqlalchemy import CheckConstraint

from tatame_db.database.bulk import sequence_query
from tatame_db.database.dialect import DIALECT, public, quoted
from tatame_db.errors import TatameError, fact
from tatame_db.move.catalogue import partitioned_tables, target_name
from tatame_db.move.sql import literal

if TYPE_CHECKING:
    from sqlalchemy import Column, Table

    from tatame_db.move.connection import MoveConnection

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
    means = "The copied rows are stored and proven, but the app cannot add new ones."
    fix = "run `tatame-db check`, fix what differs from the models, then run the command again"


def make_ready(target: MoveConnection, table: Table) -> None:
    """Set the sequence of a table past its last id and analyze the table; commits."""
    _set_sequence(target, table)
    target.execute(f"ANALYZE {public(table.name)}")
    target.driver.commit()


def _set_sequence(target: MoveConnection, table: Table) -> None:
    # `setval` is not rolled back, so this is no part of a transaction that may be.
    if query := sequence_query(table):
        target.rows(query)


def prove_ready(target: MoveConnection, table: Table) -> None:
    """Insert a row, with the parents that it needs, and roll all of it back. Raises `TrialInsertFailed`."""
    tried: list[Table] = []
    try:
        _insert(target, table, tried)
    except psycopg.OperationalError:
        raise
    except psycopg.DatabaseError as error:
        if not _is_inconclusive(error, tried):
            raise TrialInsertFailed(table=table.name, reason=str(error.diag.message_primary)) from error
    finally:
        if not target.driver.closed:
            target.driver.rollback()
    # The sequences were advanced, and are not rolled back.
    for advanced in tried:
        _set_sequence(target, advanced)
    target.driver.commit()


def _insert(target: MoveConnection, table: Table, tried: list[Table]) -> Any:
    tried.append(table)
    # Without parameters: the name of a column may be no name for one.
    expressions: dict[str, str] = {}
    for column in table.columns:
        if column.nullable or column.server_default is not None or column is table.autoincrement_column:
            continue
        if column.foreign_keys:
            [key] = column.foreign_keys
            expressions[column.name] = literal(str(_parent(target, key.column.table, tried)))
        else:
            expressions[column.name] = _value(table, column)
    names = ", ".join(map(quoted, expressions))
    row = f"({names}) VALUES ({', '.join(expressions.values())})" if expressions else "DEFAULT VALUES"
    [[key]] = target.rows(f"INSERT INTO {public(table.name)} {row} RETURNING id")
    return key


def _value(table: Table, column: Column[Any]) -> str:
    """Return an expression for a value that the column accepts: that of another row, otherwise an invented one."""
    try:
        invented = _VALUES.get(column.type.python_type, "NULL")
    except NotImplementedError:
        invented = "NULL"
    invented = f"CAST({invented} AS {column.type.compile(DIALECT)})"
    if column.unique or column.primary_key:
        return invented
    return f"coalesce((SELECT {quoted(column.name)} FROM {public(table.name)} LIMIT 1), {invented})"


def _is_inconclusive(error: psycopg.DatabaseError, tried: list[Table]) -> bool:
    """Return whether a rule of the models rejected the invented row, which says nothing about the rows of the app."""
    if isinstance(error, psycopg.errors.UniqueViolation):
        return error.diag.constraint_name not in {table.primary_key.name for table in tried}
    checks = {rule.name for table in tried for rule in table.constraints if isinstance(rule, CheckConstraint)}
    return isinstance(error, psycopg.errors.CheckViolation) and error.diag.constraint_name in checks


def _parent(target: MoveConnection, table: Table, tried: list[Table]) -> Any:
    # A key refers to no row of a table that inherits from this one.
    found = target.rows(f"SELECT id FROM {target_name(table.name, partitioned_tables(target))} LIMIT 1")
    return found[0][0] if found else _insert(target, table, tried)
