"""Pages of rows: sorted, filtered, and continued from the values of their first or last row.

The rows of a table without a key have no order that continues, so their pages are counted.
"""

from __future__ import annotations

import base64
import binascii
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec
from sqlalchemy import ColumnElement, Select, Text, and_, cast, func, select, text

from tatame_db.database.citus import knows_citus
from tatame_db.database.dialect import SCHEMA, quoted_table
from tatame_db.database.placed import placed_rows
from tatame_db.studio.addresses import encoded
from tatame_db.studio.cells import Cell, cell_expressions, characters_of_a_cell, rows_of_cells
from tatame_db.studio.errors import BadInput, OutOfRange
from tatame_db.studio.filters import condition
from tatame_db.studio.kinds import SHORT_KINDS, kind_of
from tatame_db.studio.tables import (
    column_facts,
    column_named,
    has_key,
    key_columns,
    key_expression,
    typed_value,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Column, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

MAX_PAGE_ROWS = 1000
_CELL_CHARACTERS = 200
_CURSOR_CHARACTERS = 500

Order = tuple[tuple["Column[Any]", bool], ...]
"""Columns and whether each descends, the whole key among them. NULL is greater than everything, as in PostgreSQL."""


# --- Selections -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Selection:
    """The rows and columns of a table that a page or an export shows, and their order."""

    table: Table
    columns: list[Column[Any]]
    order: Order
    condition: ColumnElement[bool] | None

    def filtered(self, query: Select[Any]) -> Select[Any]:
        """Restrict a query to the rows of the selection."""
        return query if self.condition is None else query.where(self.condition)


def read_selection(table: Table, *, columns: str = "", sort: str = "", filters: str = "") -> Selection:
    """Read a selection as the address of a page writes it. Raises `BadInput`, `ColumnNotFound`."""
    named = [column_named(table, unquote(name)) for name in columns.split(",")] if columns else list(table.columns)
    return Selection(table, named, _read_order(table, sort), condition(table, filters) if filters else None)


def _read_order(table: Table, sort: str) -> Order:
    order: dict[Column[Any], bool] = {}
    keys = key_columns(table)
    for word in sort.split(",") if sort else []:
        column = column_named(table, unquote(word.removeprefix("-")))
        if not column_facts(column).sortable:
            raise BadInput(problem=f'PostgreSQL cannot sort by "{column.name}", because its type has no order')
        order.setdefault(column, word.startswith("-"))
        if keys and all(key in order for key in keys):
            break
    # The key continues in the last direction, so that an index serves the order backwards too.
    last = next(reversed(order.values()), False)
    for key in keys:
        order.setdefault(key, last)
    return tuple(order.items())


def sorted_by(order: Iterable[tuple[ColumnElement[Any], bool]]) -> list[ColumnElement[Any]]:
    """Write an order as the arguments of `order_by`."""
    return [column.desc() if descends else column.asc() for column, descends in order]


# --- Pages ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowsPage:
    """A page; `next` and `previous` are cursors, and `estimated` is the number of rows of the whole selection.

    There are no `keys` in a table without a key.
    """

    columns: list[str]
    rows: list[list[Cell]]
    keys: list[str]
    next: str | None
    previous: str | None
    estimated: int | None
    ms: float


async def page(
    connection: AsyncConnection,
    selection: Selection,
    *,
    limit: int = 100,
    after: str | None = None,
    before: str | None = None,
    last: bool = False,
) -> RowsPage:
    """Read one page; a late page takes no longer than the first. Raises `BadInput`, `OutOfRange`."""
    if not 1 <= limit <= MAX_PAGE_ROWS:
        raise OutOfRange(container="a page", noun="rows", number=limit, maximum=MAX_PAGE_ROWS)
    started = time.perf_counter()
    cursor = after or before
    if not key_columns(selection.table):
        counted = await _counted_page(connection, selection, limit, cursor, last=last)
        ms = round((time.perf_counter() - started) * 1000, 1)
        return replace(counted, estimated=await estimate(connection, selection), ms=ms)
    start = await _read_cursor(connection, selection, cursor) if cursor else None
    backwards = last or (start is not None and not after)
    found = await _read_rows(connection, selection, start, limit + 1, backwards=backwards)
    has_more = len(found) > limit
    found = found[:limit]
    # Forwards, the row of the cursor precedes the page and surplus rows follow it; backwards, it is the reverse.
    has_next, has_previous = has_more, start is not None
    if backwards:
        found.reverse()
        has_next, has_previous = has_previous, has_next
    width = len(selection.order)
    return RowsPage(
        columns=[column.name for column in selection.columns],
        rows=rows_of_cells(selection.columns, [row[width + 1 :] for row in found]),
        keys=[row[0] for row in found],
        next=_write_cursor(selection, found[-1]) if has_next and found else None,
        previous=_write_cursor(selection, found[0]) if has_previous and found else None,
        estimated=await estimate(connection, selection),
        ms=round((time.perf_counter() - started) * 1000, 1),
    )


async def _counted_page(
    connection: AsyncConnection, selection: Selection, limit: int, cursor: str | None, *, last: bool
) -> RowsPage:
    """Read a page of a table without a key: its cursor is the number of rows before it."""
    # Several processes would return the rows in another order each time.
    await connection.exec_driver_sql("SET LOCAL max_parallel_workers_per_gather = 0")
    skipped = _read_number(selection, cursor) if cursor else 0
    if last:
        skipped = max(0, (await count(connection, selection) - 1) // limit * limit)
    query = selection.filtered(select(*selection.columns).order_by(*sorted_by(selection.order)))
    inner = query.offset(skipped).limit(limit + 1).subquery()
    cells = cell_expressions((inner.c[column.name] for column in selection.columns), _characters(selection, limit))
    # PostgreSQL has tables without columns, and a query of nothing has one row.
    found: list[Any] = list(await connection.execute(select(*cells))) if cells else []
    return RowsPage(
        columns=[str(column.name) for column in selection.columns],
        rows=rows_of_cells(selection.columns, found[:limit]),
        keys=[],
        next=_write_number(selection, skipped + limit) if len(found) > limit else None,
        previous=_write_number(selection, max(0, skipped - limit)) if skipped else None,
        estimated=None,
        ms=0,
    )


async def _read_rows(
    connection: AsyncConnection, selection: Selection, start: list[str | None] | None, limit: int, *, backwards: bool
) -> list[Any]:
    order: Order = tuple((column, descends is not backwards) for column, descends in selection.order)
    needed = {column.name: column for column in [*selection.columns, *(column for column, _ in order)]}
    query = selection.filtered(select(*needed.values()).order_by(*sorted_by(order)))
    characters = _characters(selection, limit)
    if start is None:
        return list(await connection.execute(_shown(selection, order, query.limit(limit), characters)))
    found: list[Any] = []
    # Each branch is one range of an index; one query with an OR of all branches would read the index from its start.
    for branch in _branches(order, start):
        branch_query = query.where(branch).limit(limit - len(found))
        found += await connection.execute(_shown(selection, order, branch_query, characters))
        if len(found) == limit:
            break
    return found


def _characters(selection: Selection, limit: int) -> int:
    return characters_of_a_cell(_CELL_CHARACTERS, limit * len(selection.columns))


def _shown(selection: Selection, order: Order, query: Select[Any], characters: int) -> Select[Any]:
    """Select the key of each row and its position in the order, then its cells."""
    # Around the limit: otherwise PostgreSQL would cut the cells of all rows before it sorts them.
    inner = query.subquery()
    inner_order = [(inner.c[column.name], descends) for column, descends in order]
    positions = [_position(column).label(None) for column, _ in inner_order]
    cells = cell_expressions((inner.c[column.name] for column in selection.columns), characters)
    key = key_expression([inner.c[column.name] for column in key_columns(selection.table)])
    return select(key.label(None), *positions, *cells).order_by(*sorted_by(inner_order))


def _position(column: ColumnElement[Any]) -> ColumnElement[Any]:
    written = cast(column, Text)
    return written if kind_of(column) in SHORT_KINDS else func.left(written, _CURSOR_CHARACTERS + 1)


def _branches(order: Order, start: list[str | None]) -> list[ColumnElement[bool]]:
    """Split "after the row with these values" into ranges that follow each other in the order."""
    branches: list[ColumnElement[bool]] = []
    for at in reversed(range(len(order))):
        equal = [
            column.is_(None) if value is None else column == typed_value(column, value)
            for (column, _), value in zip(order[:at], start, strict=False)
        ]
        branches += [and_(*equal, beyond) for beyond in _beyond(*order[at], start[at])]
    return branches


def _beyond(column: Column[Any], descends: bool, value: str | None) -> list[ColumnElement[bool]]:
    if value is None:
        return [column.is_not(None)] if descends else []
    if descends:
        return [column < typed_value(column, value)]
    return [column > typed_value(column, value), *([column.is_(None)] if column.nullable else [])]


# --- Cursors ----------------------------------------------------------------------------------------------------------


def _write_cursor(selection: Selection, row: Sequence[Any]) -> str:
    key, position = row[0], row[1 : len(selection.order) + 1]
    # A value that does not fit into an address is read again by the key.
    is_long = any(value is not None and len(value) > _CURSOR_CHARACTERS for value in position)
    return _written(selection, [key] if is_long else list(position))


def _written(selection: Selection, values: list[Any]) -> str:
    state = [_order_name(selection.order), values]
    return base64.urlsafe_b64encode(msgspec.json.encode(state)).decode().rstrip("=")


def _write_number(selection: Selection, number: int) -> str:
    return _written(selection, [str(number)])


def _read_number(selection: Selection, cursor: str) -> int:
    order_name, values = _decoded(cursor)
    number = values[0] if len(values) == 1 else None
    if order_name != _order_name(selection.order) or number is None or not (number.isascii() and number.isdigit()):
        raise _bad_cursor("the cursor belongs to another order")
    return int(number[:18])


def _order_name(order: Order) -> str:
    return ",".join(f"{'-' if descends else ''}{encoded(column.name)}" for column, descends in order)


def _decoded(cursor: str) -> tuple[str, list[str | None]]:
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return msgspec.json.decode(raw, type=tuple[str, list[str | None]])
    except (binascii.Error, msgspec.DecodeError, ValueError):
        raise _bad_cursor("the cursor is malformed") from None


async def _read_cursor(connection: AsyncConnection, selection: Selection, cursor: str) -> list[str | None]:
    """Return the values of a row in the columns of the order."""
    order = selection.order
    order_name, values = _decoded(cursor)
    if order_name != _order_name(order) or len(values) not in {1, len(order)} or values[-1] is None:
        raise _bad_cursor("the cursor belongs to another order")
    if len(values) == len(order):
        return values
    query = select(*(cast(column, Text) for column, _ in order)).where(has_key(selection.table, values[-1]))
    row = (await connection.execute(query)).first()
    if row is None:
        raise _bad_cursor("the row at the end of that page was deleted")
    return list(row)


def _bad_cursor(problem: str) -> BadInput:
    return BadInput(problem=problem, advice="start at the first page")


# --- Counts -----------------------------------------------------------------------------------------------------------


# Since a table was analyzed, the cumulative statistics count what is written to it, and `reltuples` stays as it was. In
# the seconds after the first write they count nothing yet.
_ROWS = text(
    "SELECT coalesce("
    "CASE WHEN relkind IN ('r', 'm')"
    " AND coalesce(pg_stat_get_last_analyze_time(oid), pg_stat_get_last_autoanalyze_time(oid)) IS NOT NULL"
    " THEN nullif(pg_stat_get_live_tuples(oid), 0) END,"
    " nullif(reltuples, CASE WHEN relkind IN ('r', 'm') THEN -1 ELSE 0 END)::bigint)"
    " FROM pg_class WHERE oid = to_regclass(:name)"
)


async def estimate(connection: AsyncConnection, selection: Selection) -> int | None:
    """Return how many rows the planner expects, or `None` for a whole table that was never analyzed."""
    table = selection.table
    if selection.condition is None:
        # A view has no statistics, and a partitioned table only after it was analyzed by itself.
        found: int | None = await connection.scalar(_ROWS, {"name": quoted_table(table)})
        if not found and table.schema in {None, SCHEMA}:
            # Citus leaves an empty shell here.
            found = await connection.run_sync(placed_rows, table.name) or found
        return found if found is not None and found >= 0 else None
    # On Citus, EXPLAIN knows no number, and keeps the transaction from reading tables that are copied to every node.
    if knows_citus(connection.dialect):
        return None
    compiled = selection.filtered(select(func.now()).select_from(table)).compile(dialect=connection.dialect)
    plan = await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {compiled}", compiled.params)
    return int(plan.scalar_one()[0]["Plan"]["Plan Rows"])


async def count(connection: AsyncConnection, selection: Selection) -> int:
    """Count the rows exactly."""
    query = selection.filtered(select(func.count()).select_from(selection.table))
    return int((await connection.execute(query)).scalar_one())
