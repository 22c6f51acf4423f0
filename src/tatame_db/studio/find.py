"""Rows found while the user types: those that a reference may name, and those that the palette offers."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from tatame_db.errors import fact
from tatame_db.studio.errors import Refused
from tatame_db.studio.names import is_looked_for, name_expression
from tatame_db.studio.rows import read_selection
from tatame_db.studio.search import by_index, is_quick, read_search, with_condition, words_of
from tatame_db.studio.tables import column_named, key_columns, key_expression, shown_tables
from tatame_db.studio.transactions import read_transaction

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlalchemy import ColumnElement, Executable, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from tatame_db.database.pool import AsyncDatabase

FIND_SECONDS = 2
_OFFERS = 20
_FROM_ONE_TABLE = 5
_GATHERED = 200
"""The rows of which the list shows the first ones by name; gathering all would read the whole table."""


@dataclass(frozen=True)
class Candidate:
    """A row that a reference may name."""

    key: str
    label: str | None


@fact
class SearchTooSlow(Refused):
    """A search without an index took too long for a list that is shown while the user types."""

    seconds: int
    status = 422
    what = "the search took longer than {seconds} seconds"
    fix = "type the key of the row, or create an index for the search: see “Search by an index” in the docs"


@asynccontextmanager
async def find_transaction(database: AsyncDatabase) -> AsyncGenerator[AsyncConnection]:
    """Open a read-only transaction for a search that is worth no long wait. Raises `SearchTooSlow`."""
    try:
        async with read_transaction(database, FIND_SECONDS) as connection:
            yield connection
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg.errors.QueryCanceled):
            raise
        raise SearchTooSlow(seconds=FIND_SECONDS) from error


async def find(
    connection: AsyncConnection, table: Table, typed: str, limit: int = _OFFERS, *, by: str | None = None
) -> list[Candidate]:
    """Find rows by a search: the one with the typed key, those with the typed name, and the others by name.

    `by` is the unique column that is returned as the key. Raises `ColumnNotFound`.
    """
    keys = [column_named(table, by)] if by else key_columns(table)
    if not keys:
        return []
    key = key_expression(keys)
    selection = read_selection(table)
    if by:
        selection = with_condition(selection, keys[0].is_not(None))
    search = await read_search(connection, table, typed)
    columns: list[ColumnElement[Any]] = [key.label("key"), name_expression(table).label("name")]
    # The key as itself too, because as a text 10 precedes 9.
    query = select(*columns, keys[0].label("order"))
    if search is None:
        return await _candidates(connection, selection.filtered(query).order_by(*keys).limit(limit))
    whole = with_condition(selection, search.condition)
    gathered = whole.filtered(query).limit(_GATHERED).subquery()
    found = (
        select(gathered.c.key, gathered.c.name)
        .order_by(
            gathered.c.key != typed.strip(),
            func.lower(gathered.c.name) != func.lower(typed.strip()),
            gathered.c.name,
            gathered.c.order,
        )
        .limit(limit)
    )
    if not search.is_served:
        return await _candidates(connection, found)
    async with by_index(connection, whole, search):
        return await _candidates(connection, found)


async def _candidates(connection: AsyncConnection, query: Executable) -> list[Candidate]:
    return [Candidate(row_key, name) for row_key, name, *_ in await connection.execute(query)]


# --- For the palette --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoundRow:
    """A row that the palette offers."""

    table: str
    key: str
    label: str | None


async def find_anywhere(connection: AsyncConnection, typed: str, limit: int = 8) -> list[FoundRow]:
    """Find rows of the tables in which people look for a name, if an index serves the search or the table is small."""
    found: list[FoundRow] = []
    if not words_of(typed):
        return found
    for table in shown_tables().values():
        if len(found) < limit and is_looked_for(table) and await is_quick(connection, table):
            rows = await find(connection, table, typed, min(_FROM_ONE_TABLE, limit - len(found)))
            found += [FoundRow(table.name, row.key, row.label) for row in rows]
    return found
