"""The SQL of writes: all rows of a batch are one JSON parameter, or the data of a COPY."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Table, inspect

from tatame_db.database.dialect import DIALECT, quoted, quoted_table
from tatame_db.queries.engine.plan import Statement
from tatame_db.queries.row import row_type

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tatame_db.schema import Base

MAX_STATEMENTS = 1_000
"""How many statements of each kind are cached: callers choose the columns, so there may be any number of sets."""


@lru_cache(maxsize=MAX_STATEMENTS)
def insert_statement(
    model: type[Base], columns: tuple[str, ...], key: tuple[str, ...], returned: tuple[str, ...]
) -> Statement[Any]:
    """Return an INSERT of these columns, with ON CONFLICT if there is a key, and with RETURNING if it returns some."""
    listed = _listed(columns)
    sql = (
        f"INSERT INTO {_table(model)} ({listed})\n"
        f"SELECT {listed} FROM json_to_recordset(%(rows)s::json) AS source ({_typed(model, columns)})"
    )
    if key:
        # Without another column, the key sets itself: PostgreSQL returns only rows that it inserts or updates.
        changed = [name for name in columns if name not in key] or list(key)
        changes = ", ".join(f"{quoted(name)} = EXCLUDED.{quoted(name)}" for name in changed)
        sql += f"\nON CONFLICT ({_listed(key)}) DO UPDATE SET {changes}"
    if returned:
        sql += f"\nRETURNING {_listed(returned)}"
    row = row_type(model, returned)
    name = f"{'upsert' if key else 'insert'} {model.__name__}"
    return Statement(name, sql, lambda values: row(*values), has_rows=bool(returned))


@lru_cache(maxsize=MAX_STATEMENTS)
def update_statement(
    model: type[Base], columns: tuple[str, ...], key: tuple[str, ...], returned: tuple[str, ...]
) -> Statement[Any]:
    """Return an UPDATE of these columns.

    It returns the number of updated rows or, if columns are returned, pairs: a position in the batch, and a row.
    """
    name = f"update {model.__name__}"
    changes = ", ".join(f"{quoted(column)} = source.{quoted(column)}" for column in columns if column not in key)
    matches = " AND ".join(f"target.{quoted(column)} = source.{quoted(column)}" for column in key)
    # The function's rows are numbered, because UPDATE returns rows in any order.
    update = (
        f"UPDATE {_table(model)} AS target SET {changes}\n"  # noqa: S608, names are quoted and values are parameters
        f"FROM ROWS FROM (json_to_recordset(%(rows)s::json) AS ({_typed(model, columns)})) WITH ORDINALITY\n"
        f'    AS source ({_listed(columns)}, "#")\n'
        f"WHERE {matches}\n"
    )
    if not returned:
        sql = f"WITH updated AS (\n{update}RETURNING 1\n)\nSELECT count(*) FROM updated"
        return Statement(name, sql, lambda values: values[0])
    sql = f'{update}RETURNING source."#" - 1, {", ".join(f"target.{quoted(column)}" for column in returned)}'
    row = row_type(model, returned)
    return Statement(name, sql, lambda values: (values[0], row(*values[1:])))


@lru_cache(maxsize=MAX_STATEMENTS)
def copy_statement(model: type[Base], columns: tuple[str, ...]) -> Statement[Any]:
    """Return a COPY of these columns."""
    sql = f"COPY {_table(model)} ({_listed(columns)}) FROM STDIN"
    return Statement(f"copy {model.__name__}", sql, tuple, has_rows=False)


def _table(model: type[Base]) -> str:
    return quoted_table(cast("Table", model.__table__))


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(map(quoted, columns))


def _typed(model: type[Base], columns: tuple[str, ...]) -> str:
    return ", ".join(f"{quoted(name)} {inspect(model).columns[name].type.compile(DIALECT)}" for name in columns)
