"""What names a row: the one rule by which grids, lists and reviews write `15 · Ana Conceição`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import ARRAY, ColumnElement, Text, any_, bindparam, cast, func, literal, select
from sqlalchemy.exc import DBAPIError

from tatame_db.studio.addresses import encoded
from tatame_db.studio.tables import address_of, column_named, key_columns, reference_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Column, FromClause, Table
    from sqlalchemy.ext.asyncio import AsyncConnection
    from sqlalchemy.sql.elements import KeyedColumnElement

    from tatame_db.studio.cells import Cell
    from tatame_db.studio.rows import Selection

Names = dict[str, dict[str, str]]
"""The names of rows, by place and key."""

_NAMING = (("name",), ("title",), ("first_name", "last_name"), ("full_name",), ("email",), ("file_name",))
_DESCRIBING = (("modality",), ("belt",), ("app_version",), ("store",), ("date",))
"""These columns tell rows apart, but no one looks for a row by them."""
_CHARACTERS = 100


def label_columns(table: FromClause) -> list[list[KeyedColumnElement[Any]]]:
    """Return the columns that name a row: those of one list together; the next list if all of them are empty."""
    known = [[table.columns[name] for name in names if name in table.columns] for names in _NAMING + _DESCRIBING]
    # A second list helps where people have no name yet but an address.
    return [columns for columns in known if columns][:2]


def is_looked_for(table: Table) -> bool:
    """Return whether people look for a row of the table by its name."""
    return any(name in table.columns for names in _NAMING for name in names)


def name_expression(table: FromClause) -> ColumnElement[Any]:
    """Write the expression of a row's name, which is NULL if nothing names it."""
    names = [
        func.nullif(
            func.concat_ws(" ", *(func.nullif(func.left(cast(column, Text), _CHARACTERS), "") for column in columns)),
            "",
        )
        for columns in label_columns(table)
    ]
    return func.coalesce(*names, literal(None, Text)) if names else literal(None, Text)


def with_names(selection: Selection) -> Selection:
    """Add to a selection the name of the row behind each reference, as a column after it."""
    columns: list[Any] = []
    for column in selection.columns:
        columns.append(column)
        if (target := reference_of(column)) is not None and label_columns(target.table):
            # An alias, because a table may refer to itself.
            other = target.table.alias()
            named = select(name_expression(other)).where(other.c[target.name] == column).scalar_subquery()
            columns.append(named.label(_shortened(column.name)))
    return replace(selection, columns=columns)


def _shortened(name: str) -> str:
    """Write the heading of the names, which as a name in PostgreSQL has at most 63 bytes."""
    return f"{name.encode()[:56].decode(errors='ignore')} (name)"


def place_of(target: Column[Any]) -> str:
    """Return the place of names: the table if its key is referred to, otherwise the table and the column."""
    is_key = key_columns(target.table) == [target]
    return address_of(target.table) if is_key else f"{address_of(target.table)}/{encoded(target.name)}"


def named_column(table: Table, name: str | None) -> Column[Any] | None:
    """Return the column by which the rows of a table are named: this one, or the only one of the key."""
    if name is not None:
        return column_named(table, name)
    keys = key_columns(table)
    return keys[0] if len(keys) == 1 else None


async def names_of(connection: AsyncConnection, key: Column[Any] | None, keys: Iterable[str]) -> dict[str, str]:
    """Return the names of the rows with these keys; a role that may not read the table gets none."""
    wanted = sorted(set(keys))
    if key is None or not wanted or not label_columns(key.table):
        return {}
    among = key == any_(cast(bindparam(None, wanted, ARRAY(Text)), ARRAY(key.type)))
    name = name_expression(key.table).label("name")
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
    wanted: dict[Column[Any], set[str]] = defaultdict(set)
    for place, column in enumerate(selection.columns):
        if (target := reference_of(column)) is not None:
            wanted[target] |= {cell for row in rows if isinstance(cell := row[place], str)}
    named = {place_of(target): await names_of(connection, target, keys) for target, keys in wanted.items()}
    return {place: names for place, names in named.items() if names}
