"""What names a row: the one rule by which grids, lists and reviews write `15 · Ana Conceição`."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import ARRAY, ColumnElement, Text, any_, bindparam, cast, func, literal, select
from sqlalchemy.exc import DBAPIError

from tatame_db.studio.tables import address_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Column, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from tatame_db.studio.cells import Cell
    from tatame_db.studio.rows import Selection

Names = dict[str, dict[str, str]]
"""The names of rows, by table and key."""

_NAMING = (("name",), ("title",), ("first_name", "last_name"), ("full_name",), ("email",), ("file_name",))
_DESCRIBING = (("modality",), ("belt",), ("app_version",), ("store",), ("date",))
"""These columns tell rows apart, but no one looks for a row by them."""
_CHARACTERS = 100


def label_columns(table: Table) -> list[list[Column[Any]]]:
    """Return the columns that name a row: those of one list together; the next list if all of them are empty."""
    known = [[table.columns[name] for name in names if name in table.columns] for names in _NAMING + _DESCRIBING]
    # A second list helps where people have no name yet but an address.
    return [columns for columns in known if columns][:2]


def is_looked_for(table: Table) -> bool:
    """Return whether people look for a row of the table by its name."""
    return any(name in table.columns for names in _NAMING for name in names)


def name_expression(table: Table) -> ColumnElement[Any]:
    """Write the expression of a row's name, which is NULL if nothing names it."""
    names = [
        func.nullif(
            func.concat_ws(" ", *(func.nullif(func.left(cast(column, Text), _CHARACTERS), "") for column in columns)),
            "",
        )
        for columns in label_columns(table)
    ]
    return func.coalesce(*names, literal(None, Text)) if names else literal(None, Text)


async def names_of(connection: AsyncConnection, table: Table, keys: Iterable[str]) -> dict[str, str]:
    """Return the names of the rows with these keys; a role that may not read the table gets none."""
    wanted, key_columns = sorted(set(keys)), list(table.primary_key.columns)
    if not wanted or len(key_columns) != 1 or not label_columns(table):
        return {}
    [key] = key_columns
    among = key == any_(cast(bindparam(None, wanted, ARRAY(Text)), ARRAY(key.type)))
    name = name_expression(table).label("name")
    try:
        async with connection.begin_nested():
            found = await connection.execute(select(cast(key, Text), name).where(among, name.is_not(None)))
            return {row[0]: row[1] for row in found}
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise
        return {}


async def page_names(connection: AsyncConnection, selection: Selection, rows: list[list[Cell]]) -> Names:
    """Return the names of all rows that a page refers to, with one query for each table."""
    wanted: dict[Table, set[str]] = defaultdict(set)
    for place, column in enumerate(selection.columns):
        for target in (reference.column for reference in column.foreign_keys):
            if target.primary_key:
                wanted[target.table] |= {cell for row in rows if isinstance(cell := row[place], str)}
    named = {address_of(table): await names_of(connection, table, keys) for table, keys in wanted.items()}
    return {table: names for table, names in named.items() if names}
