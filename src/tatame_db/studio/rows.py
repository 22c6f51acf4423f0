"""Pages of rows as plain data: sorted, filtered, and found again by the keys of their first and last row."""

from __future__ import annotations

import base64
import binascii
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import ColumnElement, Select, Text, and_, case, cast, func, literal, or_, select
from sqlalchemy import text as sql

from tatame_db.studio.answers import BadInput, NotFound
from tatame_db.studio.filters import condition, escaped, read_as
from tatame_db.studio.tables import column_named, key_of, kind_of, kinds_of, labels_of, pointing_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Column, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

CUT_CHARACTERS = 200
WHOLE_CHARACTERS = 100_000
MAX_CELL_CHARACTERS = 8_000_000
MAX_PAGE = 1000
MAX_COUNT_OF_REFERENCES = 1000
_CURSOR_CHARACTERS = 500

Cell = None | str | list[str | None] | dict[str, Any]
Order = tuple[tuple["Column[Any]", bool], ...]
"""Columns and whether each descends; the last one is the key. NULL is greater than everything, as in PostgreSQL."""


# --- What is asked for ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """Which rows and columns of a table, in which order."""

    table: Table
    columns: list[Column[Any]]
    order: Order
    condition: ColumnElement[bool] | None


def question(table: Table, *, columns: str = "", sort: str = "", filters: str = "") -> Question:
    """Read what the address of a page says. Raises `BadInput`."""
    named = [column_named(table, name) for name in columns.split(",")] if columns else list(table.columns)
    return Question(table, named, _order(table, sort), condition(table, filters) if filters else None)


def _order(table: Table, sort: str) -> Order:
    order: dict[Column[Any], bool] = {}
    for word in sort.split(",") if sort else []:
        order.setdefault(column_named(table, word.removeprefix("-")), word.startswith("-"))
        if key_of(table) in order:
            break
    # The last direction goes on, so that an index serves it backwards too.
    order.setdefault(key_of(table), next(reversed(order.values()), False))
    return tuple(order.items())


# --- Cells ------------------------------------------------------------------------------------------------------------


def cell_columns(column: ColumnElement[Any], limit: int) -> list[ColumnElement[Any]]:
    """Select what shows of a cell, and the length of what was cut: a long text never leaves the server."""
    whole = cast(column, Text)
    match kind_of(column):
        case "text":
            length = func.length(column)
            return [func.left(column, limit).label(None), case((length > limit, length)).label(None)]
        case "array":
            length = func.length(whole)
            return [
                case((length <= limit, column)).label(None),
                case((length > limit, func.left(whole, limit))).label(None),
                case((length > limit, length)).label(None),
            ]
        case _:
            return [whole.label(None)]


def cells_of(kinds: Sequence[str], values: Sequence[Any]) -> tuple[list[Cell], Sequence[Any]]:
    """Put the cells of a row together; return what follows them too."""
    cells: list[Cell] = []
    at = 0
    for kind in kinds:
        match kind:
            case "text":
                shown, length = values[at : at + 2]
                at += 2
                cells.append({"cut": shown, "length": length} if length else shown)
            case "array":
                shown, start, length = values[at : at + 3]
                at += 3
                cells.append({"cut": start, "length": length} if length else shown)
            case _:
                cells.append(values[at])
                at += 1
    return cells, values[at:]


# --- Pages ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Between which rows a page begins: after or before the row that has these values in the order's columns."""

    values: list[str | None]
    before: bool


@dataclass(frozen=True)
class Page:
    """A page, ready for the wire; `next` and `previous` are cursors."""

    columns: list[str]
    rows: list[list[Cell]]
    keys: list[str]
    next: str | None
    previous: str | None
    estimated: int | None
    ms: float


async def page(
    connection: AsyncConnection,
    asked: Question,
    *,
    limit: int = 100,
    after: str | None = None,
    before: str | None = None,
    last: bool = False,
) -> Page:
    """Read one page; each costs the same, wherever it is. Raises `BadInput`, `NotFound`."""
    if not 1 <= limit <= MAX_PAGE:
        raise BadInput(f"a page has 1 to {MAX_PAGE} rows, not {limit}")
    started = time.perf_counter()
    cursor = after or before
    place = Place(await _values(connection, asked, cursor), before=not after) if cursor else None
    backwards = last or (place is not None and place.before)
    found = await _rows(connection, asked, place, limit + 1, backwards=backwards)
    more = len(found) > limit
    found = found[:limit]
    if backwards:
        found.reverse()
    kinds = kinds_of(asked.columns)
    split = [cells_of(kinds, row) for row in found]
    ends = [_cursor(asked.order, split[at][1]) for at in ((0, -1) if split else ())]
    first, final = ends or (None, None)
    return Page(
        columns=[column.name for column in asked.columns],
        rows=[cells for cells, _ in split],
        keys=[position[-1] for _, position in split],
        next=final if (more if not backwards else place is not None) else None,
        previous=first if (more if backwards else place is not None) else None,
        estimated=await estimated(connection, asked),
        ms=round((time.perf_counter() - started) * 1000, 1),
    )


async def _rows(
    connection: AsyncConnection, asked: Question, place: Place | None, limit: int, *, backwards: bool
) -> list[Any]:
    order: Order = tuple((column, descends is not backwards) for column, descends in asked.order)
    needed = {column.name: column for column in [*asked.columns, *(column for column, _ in order)]}
    base = select(*needed.values()).order_by(*_sorted(order))
    if asked.condition is not None:
        base = base.where(asked.condition)
    found: list[Any] = []
    # Each branch is one range of an index, where an OR of them all would be read from the beginning.
    for branch in _branches(order, place.values) if place else [None]:
        query = base.limit(limit - len(found))
        found += (
            await connection.execute(_shown(asked, order, query if branch is None else query.where(branch)))
        ).all()
        if len(found) == limit:
            break
    return found


def _shown(asked: Question, order: Order, query: Select[Any]) -> Select[Any]:
    # Around the limit: else the cells of all rows would be cut before they are sorted.
    page = query.subquery()
    cells = [part for column in asked.columns for part in cell_columns(page.c[column.name], CUT_CHARACTERS)]
    inside = [(page.c[column.name], descends) for column, descends in order]
    return select(*cells, *(_position(column).label(None) for column, _ in inside)).order_by(*_sorted(inside))


def _sorted(order: Sequence[tuple[ColumnElement[Any], bool]]) -> list[ColumnElement[Any]]:
    return [column.desc() if descends else column.asc() for column, descends in order]


def _position(column: ColumnElement[Any]) -> ColumnElement[Any]:
    text = cast(column, Text)
    return text if kind_of(column) in {"integer", "timestamp"} else func.left(text, _CURSOR_CHARACTERS + 1)


def _branches(order: Order, values: list[str | None]) -> list[ColumnElement[bool]]:
    """Split "greater than these values" into ranges that follow each other in the order."""
    found: list[ColumnElement[bool]] = []
    for at in reversed(range(len(order))):
        same = [
            column.is_(None) if value is None else column == read_as(column, value)
            for (column, _), value in zip(order[:at], values, strict=False)
        ]
        found += [and_(*same, beyond) for beyond in _beyond(*order[at], values[at])]
    return found


def _beyond(column: Column[Any], descends: bool, value: str | None) -> list[ColumnElement[bool]]:
    if value is None:
        return [column.is_not(None)] if descends else []
    if descends:
        return [column < read_as(column, value)]
    return [column > read_as(column, value), *([column.is_(None)] if column.nullable else [])]


def _cursor(order: Order, position: Sequence[str | None]) -> str:
    # A value that would not fit into an address is looked up again by the key, which comes last.
    long = any(value is not None and len(value) > _CURSOR_CHARACTERS for value in position)
    state = [_named(order), [position[-1]] if long else list(position)]
    return base64.urlsafe_b64encode(msgspec.json.encode(state)).decode().rstrip("=")


def _named(order: Order) -> str:
    return ",".join(f"{'-' if descends else ''}{column.name}" for column, descends in order)


async def _values(connection: AsyncConnection, asked: Question, cursor: str) -> list[str | None]:
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        named, values = msgspec.json.decode(raw, type=tuple[str, list[str | None]])
    except (binascii.Error, msgspec.DecodeError, ValueError):
        raise BadInput("the cursor cannot be read", fix="begin at the first page") from None
    if named != _named(asked.order) or len(values) not in {1, len(asked.order)} or values[-1] is None:
        raise BadInput("the cursor belongs to another order", fix="begin at the first page")
    if len(values) == len(asked.order):
        return values
    key = key_of(asked.table)
    query = select(*(cast(column, Text) for column, _ in asked.order)).where(key == read_as(key, values[-1]))
    row = (await connection.execute(query)).first()
    if row is None:
        raise BadInput("the row at the end of that page is gone", fix="begin at the first page")
    return list(row)


async def estimated(connection: AsyncConnection, asked: Question) -> int | None:
    """Say how many rows the planner expects; `None` where it has never seen the table."""
    if asked.condition is None:
        query = select(sql("reltuples::bigint FROM pg_class WHERE oid = to_regclass(:name)"))
        found = await connection.scalar(query, {"name": f"public.{asked.table.name}"})
        return found if found is not None and found >= 0 else None
    compiled = select(key_of(asked.table)).where(asked.condition).compile(dialect=connection.dialect)
    plan = await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {compiled}", compiled.params)
    return int(plan.scalar_one()[0]["Plan"]["Plan Rows"])


async def count(connection: AsyncConnection, asked: Question) -> int:
    """Count the rows exactly."""
    query: Select[Any] = select(func.count()).select_from(asked.table)
    return int((await connection.execute(_where(query, asked))).scalar_one())


def _where(query: Select[Any], asked: Question) -> Select[Any]:
    return query if asked.condition is None else query.where(asked.condition)


# --- One row ----------------------------------------------------------------------------------------------------------


async def row(connection: AsyncConnection, table: Table, key: str) -> dict[str, Any]:
    """Read one row, what it points to, and what points to it. Raises `NotFound`."""
    columns = list(table.columns)
    shown = [part for column in columns for part in cell_columns(column, WHOLE_CHARACTERS)]
    found = (await connection.execute(select(*shown).where(key_of(table) == read_as(key_of(table), key)))).first()
    if found is None:
        raise NotFound(f"{table.name} has no row {key!r}", fix=f"look for it among the rows of {table.name}")
    cells = dict(zip(table.columns.keys(), cells_of(kinds_of(columns), found)[0], strict=True))
    return {
        "row": cells,
        "references": {
            column.name: await _reference(connection, reference.column, str(cells[column.name]))
            for column in columns
            for reference in column.foreign_keys
            if cells[column.name] is not None
        },
        "referenced_by": [await _referring(connection, column, key) for column in pointing_at(table)],
    }


async def _reference(connection: AsyncConnection, column: Column[Any], value: str) -> dict[str, Any]:
    table = column.table
    found = (await connection.execute(select(_label(table)).where(column == read_as(column, value)))).first()
    return {"table": table.name, "key": value, "label": found[0] if found else None}


async def _referring(connection: AsyncConnection, column: Column[Any], key: str) -> dict[str, Any]:
    some = select(literal(1)).where(column == read_as(column, key)).limit(MAX_COUNT_OF_REFERENCES + 1).subquery()
    rows = (await connection.execute(select(func.count()).select_from(some))).scalar_one()
    return {
        "table": column.table.name,
        "column": column.name,
        "rows": min(rows, MAX_COUNT_OF_REFERENCES),
        "more": rows > MAX_COUNT_OF_REFERENCES,
    }


def _label(table: Table) -> ColumnElement[Any]:
    words = [func.left(column, CUT_CHARACTERS) for column in labels_of(table)]
    return func.nullif(func.concat_ws(" ", *words), "") if words else literal(None, Text)


async def cell(connection: AsyncConnection, table: Table, key: str, name: str) -> Cell:
    """Read one whole value. Raises `NotFound`, `BadInput`."""
    column = column_named(table, name)
    shown = column if kind_of(column) == "array" else cast(column, Text)
    length = func.length(cast(column, Text))
    query = select(case((func.coalesce(length, 0) <= MAX_CELL_CHARACTERS, shown)), length)
    found = (await connection.execute(query.where(key_of(table) == read_as(key_of(table), key)))).first()
    if found is None:
        raise NotFound(f"{table.name} has no row {key!r}", fix=f"look for it among the rows of {table.name}")
    value: Cell = found[0]
    if value is None and found[1] is not None:
        raise BadInput(f"{found[1]:,} characters are more than a page can hold", fix="read it with `tatame-db psql`")
    return value


async def find(connection: AsyncConnection, table: Table, words: str, limit: int = 20) -> list[dict[str, Any]]:
    """Find rows to point at, by the beginning of their key or of the columns by which a person knows them."""
    key, pattern = key_of(table), f"{escaped(words)}%"
    columns = [cast(key, Text), *labels_of(table)]
    query = select(cast(key, Text), _label(table)).order_by(key).limit(limit)
    if words:
        query = query.where(or_(*(column.ilike(pattern, escape="\\") for column in columns)))
    return [{"key": found, "label": label} for found, label in await connection.execute(query)]
