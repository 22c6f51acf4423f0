"""The rows of a page that a search finds: by their own texts, or by the name of a row that they refer to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import ARRAY, ColumnElement, Text, any_, bindparam, cast, or_, select, text
from sqlalchemy.exc import DBAPIError

from tatame_db.database.dialect import quoted_table
from tatame_db.studio.names import label_columns
from tatame_db.studio.rows import estimate, read_selection
from tatame_db.studio.search import by_index, is_small, read_name_search, read_search, with_condition
from tatame_db.studio.tables import reference_of

if TYPE_CHECKING:
    from sqlalchemy import Column, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from tatame_db.studio.rows import Selection
    from tatame_db.studio.search import Search

MAX_MATCHES = 1000
"""Of more matches, a page without a sort order shows this many."""


@dataclass(frozen=True)
class Found:
    """How a search was done, for the page; `rows` is the number of matches if it is known."""

    columns: list[str]
    index: str | None
    rows: int | None
    more: bool
    """Whether there are more matches than the page shows."""
    reads_all: bool
    """Whether the search reads the whole of a table that is not small."""


async def searched(connection: AsyncConnection, selection: Selection, typed: str) -> Selection:
    """Restrict a selection to all rows that a search finds."""
    search = await read_search(connection, selection.table, typed)
    if search is None:
        return selection
    return with_condition(selection, (await _with_references(connection, selection.table, search, typed)).condition)


async def searched_page(
    connection: AsyncConnection, selection: Selection, typed: str, *, is_sorted: bool
) -> tuple[Selection, Found | None]:
    """Restrict a selection to the rows that a page shows of a search.

    Up to `MAX_MATCHES` rows are found by the index first and then put into order. Of more, the first ones that the
    index finds are shown, unless the page names a sort order, for which PostgreSQL reads all of them.
    """
    own = await read_search(connection, selection.table, typed)
    if own is None:
        return selection, None
    search = await _with_references(connection, selection.table, own, typed)
    whole = with_condition(selection, search.condition)
    if len(selection.table.primary_key.columns) != 1 or not search.is_served:
        reads_all = not await is_small(connection, selection.table)
        return whole, Found(search.columns, search.index, None, more=False, reads_all=reads_all)
    keys = await _matches(connection, whole, search, MAX_MATCHES + 1)
    has_more = len(keys) > MAX_MATCHES
    found = Found(
        search.columns, search.index, None if has_more else len(keys), has_more and not is_sorted, reads_all=False
    )
    if has_more and is_sorted:
        return whole, found
    [key] = selection.table.primary_key.columns
    return replace(selection, condition=_is_any(key, key, keys[:MAX_MATCHES])), found


async def _matches(connection: AsyncConnection, whole: Selection, search: Search, limit: int) -> list[str]:
    """Return the keys of the first matches in any order."""
    [key] = whole.table.primary_key.columns
    query = whole.filtered(select(cast(key, Text))).limit(limit)
    async with by_index(connection, whole, search):
        return list(await connection.scalars(query))


def _is_any(column: Column[Any], target: Column[Any], keys: list[str]) -> ColumnElement[bool]:
    return column == any_(cast(bindparam(None, keys, ARRAY(Text)), ARRAY(target.type)))


# --- References -------------------------------------------------------------------------------------------------------

_INDEXED = text(
    "SELECT DISTINCT CAST(a.attname AS text) FROM pg_index x"
    " JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0]"
    " WHERE x.indrelid = to_regclass(:table) AND x.indisvalid AND x.indpred IS NULL"
)


async def _with_references(connection: AsyncConnection, table: Table, own: Search, typed: str) -> Search:
    """Let a search also find the rows that refer to a row whose name has all the words."""
    named = {column: target for column in table.columns if (target := reference_of(column)) is not None}
    named = {column: target for column, target in named.items() if label_columns(target.table)}
    found: dict[Column[Any], _Named | None] = {}
    conditions: dict[str, ColumnElement[bool]] = {}
    for column, target in named.items():
        if target not in found:
            found[target] = await _named(connection, target, typed)
        if (rows := found[target]) is not None:
            conditions[column.name] = rows.referred_by(column)
    columns = own.columns + [f"{column.name} (names)" for column in named]
    is_served = own.is_served or (bool(named) and not own.columns)
    if conditions and is_served:
        indexed = set(await connection.scalars(_INDEXED, {"table": quoted_table(table)}))
        is_served = conditions.keys() <= indexed
    condition = or_(own.condition, *conditions.values())
    table_rows = own.table_rows
    if is_served and table_rows is None:
        table_rows = await estimate(connection, read_selection(table))
    return replace(own, condition=condition, columns=columns, is_served=is_served, table_rows=table_rows)


@dataclass(frozen=True)
class _Named:
    """The rows of a table whose names have all words, by the column that references name."""

    target: Column[Any]
    condition: ColumnElement[bool]
    keys: list[str]
    """The values of the first of them, one more than `MAX_MATCHES`."""

    def referred_by(self, column: Column[Any]) -> ColumnElement[bool]:
        """Write the condition that a column refers to one of the rows."""
        if len(self.keys) <= MAX_MATCHES:
            return _is_any(column, self.target, self.keys)
        # Not correlated, because a table may refer to itself.
        return column.in_(select(self.target).where(self.condition).correlate(None))


async def _named(connection: AsyncConnection, target: Column[Any], typed: str) -> _Named | None:
    """Find the rows by their names; `None` if there are none, or if the role may not read them."""
    try:
        async with connection.begin_nested():
            search = await read_name_search(connection, target.table, typed)
            if search is None:
                return None
            selection = read_selection(target.table)
            whole = with_condition(selection, search.condition)
            query = whole.filtered(select(cast(target, Text)).where(target.is_not(None))).limit(MAX_MATCHES + 1)
            if search.is_served:
                candidates = with_condition(selection, search.candidates)
                async with by_index(connection, candidates, search):
                    keys = list(await connection.scalars(query))
            else:
                keys = list(await connection.scalars(query))
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise
        return None
    return _Named(target, search.condition, keys) if keys else None
