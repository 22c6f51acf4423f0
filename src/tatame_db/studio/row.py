"""One row: its cells, the rows that it refers to, and the rows that refer to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, Text, and_, case, cast, false, func, literal, not_, null, select

from tatame_db.studio.cells import Cell, cell_expressions, cells_of, is_plain_list
from tatame_db.studio.errors import BadInput, RowNotFound
from tatame_db.studio.kinds import kind_of
from tatame_db.studio.names import name_expression
from tatame_db.studio.tables import address_of, column_named, has_key, reference_of, references_to, typed_value

if TYPE_CHECKING:
    from sqlalchemy import Column, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

MAX_CELL_CHARACTERS = 100_000
MAX_VALUE_CHARACTERS = 8_000_000
MAX_COUNTED_REFERENCES = 1000


@dataclass(frozen=True)
class Reference:
    """A row that the row refers to; `label` is `None` where no column names it."""

    table: str
    key: str
    label: str | None


@dataclass(frozen=True)
class Referrers:
    """How many rows refer to the row by a column, which has this value; with `more`, at least as many."""

    table: str
    column: str
    value: str
    rows: int
    more: bool


@dataclass(frozen=True)
class Row:
    """A row and its surroundings; `references` is by column, and `label` is the row's own name."""

    row: dict[str, Cell]
    label: str | None
    references: dict[str, Reference]
    referenced_by: list[Referrers]


async def read_row(connection: AsyncConnection, table: Table, key: str) -> Row:
    """Read a row and its surroundings. Raises `RowNotFound`."""
    columns = list(table.columns)
    query = select(name_expression(table), *cell_expressions(columns, MAX_CELL_CHARACTERS)).where(has_key(table, key))
    found = (await connection.execute(query)).first()
    if found is None:
        raise RowNotFound(table=address_of(table), key=key)
    label, *values = found
    cells = dict(zip(table.columns.keys(), cells_of(columns, values), strict=True))
    return Row(
        cells,
        label,
        references={
            column.name: await _reference(connection, target, str(cells[column.name]))
            for column in columns
            if (target := reference_of(column)) is not None and cells[column.name] is not None
        },
        referenced_by=[
            await _referrers(connection, column, str(cells[target.name]))
            for column in references_to(table)
            if (target := reference_of(column)) is not None and cells[target.name] is not None
        ],
    )


async def _reference(connection: AsyncConnection, column: Column[Any], value: str) -> Reference:
    query = select(name_expression(column.table)).where(column == typed_value(column, value))
    return Reference(address_of(column.table), value, await connection.scalar(query))


async def _referrers(connection: AsyncConnection, column: Column[Any], value: str) -> Referrers:
    some = select(literal(1)).where(column == typed_value(column, value)).limit(MAX_COUNTED_REFERENCES + 1).subquery()
    rows = (await connection.execute(select(func.count()).select_from(some))).scalar_one()
    return Referrers(
        address_of(column.table),
        column.name,
        value,
        min(rows, MAX_COUNTED_REFERENCES),
        more=rows > MAX_COUNTED_REFERENCES,
    )


async def read_value(connection: AsyncConnection, table: Table, key: str, name: str) -> Cell:
    """Read a whole value, however long. Raises `RowNotFound`, `ColumnNotFound`, `BadInput`."""
    column = column_named(table, name)
    whole = cast(column, Text)
    is_array = kind_of(column) == "array"
    # The hexadecimal text of a large value is not written just to be counted.
    length = func.octet_length(column) * 2 + 2 if kind_of(column) == "bytea" else func.length(whole)
    fits = func.coalesce(length, 0) <= MAX_VALUE_CHARACTERS
    is_list = and_(fits, is_plain_list(column)) if is_array else false()
    elements = cast(column, ARRAY(Text)) if is_array else null()
    query = select(length, case((is_list, elements)), case((and_(fits, not_(is_list)), whole)))
    found = (await connection.execute(query.where(has_key(table, key)))).first()
    if found is None:
        raise RowNotFound(table=address_of(table), key=key)
    characters, listed, written = found
    if listed is None and written is None and characters is not None:
        raise BadInput(
            problem=f"the value has {characters:,} characters; the browser shows at most {MAX_VALUE_CHARACTERS:,}",
            advice="read it with `tatame-db psql`",
        )
    value: Cell = written if listed is None else listed
    return value
