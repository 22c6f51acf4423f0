"""Whether the target takes the next row: sequences behind the last id, and a row added to see that, and taken back."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg

from tatame_db.errors import TatameError
from tatame_db.move.mapping import quoted

if TYPE_CHECKING:
    from sqlalchemy import Table

    from tatame_db.move.connection import MoveConnection

_ANYTHING: dict[type, str] = {
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


class TrialInsertFailed(TatameError):
    """All rows are there, and a new one cannot be added."""

    def __init__(self, table: str, words: str) -> None:
        self.table = table
        super().__init__(
            f"a new row of {table} was tried, and refused: {words}",
            means="The rows that came are there and proven; the app could not add one to them.",
            fix="`tatame-db check` shows what differs from our schema; put that right, then run the command again",
        )


def make_ready(target: MoveConnection, table: Table) -> None:
    """Let the next row get a free id, and give the server fresh statistics; commits."""
    _set_sequence(target, table)
    target.execute(f"ANALYZE public.{quoted(table.name)}")
    target.driver.commit()


def _set_sequence(target: MoveConnection, table: Table) -> None:
    name = f"public.{quoted(table.name)}"
    if table.autoincrement_column is not None:
        # Outside of any transaction that may be undone, because `setval` is not.
        target.rows(
            f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), greatest(max(id), 1), max(id) IS NOT NULL)"
            f" FROM {name}"
        )


def prove_ready(target: MoveConnection, table: Table) -> None:
    """Add a row and take it back. Raises `NotReady`."""
    tried: list[Table] = []
    try:
        _insert(target, table, tried)
    except psycopg.OperationalError:
        raise
    except psycopg.DatabaseError as error:
        raise TrialInsertFailed(table.name, str(error.diag.message_primary)) from error
    finally:
        if not target.driver.closed:
            target.driver.rollback()
    for advanced in tried:
        _set_sequence(target, advanced)
    target.driver.commit()


def _insert(target: MoveConnection, table: Table, tried: list[Table]) -> Any:
    tried.append(table)
    values: dict[str, Any] = {}
    expressions: dict[str, str] = {}
    for column in table.columns:
        if column.nullable or column.server_default is not None or column is table.autoincrement_column:
            continue
        if column.foreign_keys:
            [key] = column.foreign_keys
            values[column.name] = _parent(target, key.column.table, tried)
            expressions[column.name] = f"%({column.name})s"
        else:
            expressions[column.name] = _ANYTHING[column.type.python_type]
    names, what = ", ".join(map(quoted, expressions)), ", ".join(expressions.values())
    given = f"({names}) VALUES ({what})" if expressions else "DEFAULT VALUES"
    [[key]] = target.rows(f"INSERT INTO public.{quoted(table.name)} {given} RETURNING id", values)
    return key


def _parent(target: MoveConnection, table: Table, tried: list[Table]) -> Any:
    found = target.rows(f"SELECT id FROM public.{quoted(table.name)} LIMIT 1")
    return found[0][0] if found else _insert(target, table, tried)
