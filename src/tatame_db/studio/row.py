"""One row: its cells, the rows that it refers to, and the rows that refer to it."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, Text, case, cast, func, literal, select

from tatame_db.studio.cells import Cell, cell_expressions, cells_of, characters_of_a_cell, is_plain_list
from tatame_db.studio.errors import BadInput, RowNotFound
from tatame_db.studio.kinds import kind_of
from tatame_db.studio.names import name_expression
from tatame_db.studio.pieces import read_pieces
from tatame_db.studio.tables import (
    address_of,
    column_named,
    has_key,
    reference_of,
    references_to,
    table_named,
    typed_value,
)
from tatame_db.studio.transactions import read_transaction

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlalchemy import Column, ColumnElement, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from tatame_db.database.pool import AsyncDatabase

MAX_CELL_CHARACTERS = 100_000
MAX_VALUE_BYTES = 8_000_000
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
    shown = cell_expressions(columns, characters_of_a_cell(MAX_CELL_CHARACTERS, len(columns)))
    query = select(name_expression(table), *shown).where(has_key(table, key))
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


async def whole_value(database: AsyncDatabase, address: str, key: str, name: str) -> AsyncGenerator[bytes]:
    """Write a whole value as JSON, in pieces. Raises `RowNotFound`, `ColumnNotFound`, `BadInput`."""
    async with read_transaction(database) as connection:
        table = await table_named(connection, address)
        column = column_named(table, name)
        whole: ColumnElement[Any] = column if isinstance(column.type, Text) else cast(column, Text)
        # The hexadecimal text of a large value is not written just to be counted.
        size = func.octet_length(column) * 2 + 2 if kind_of(column) == "bytea" else func.octet_length(whole)
        found = (await connection.execute(select(size).where(has_key(table, key)))).first()
        if found is None:
            raise RowNotFound(table=address_of(table), key=key)
        if (found[0] or 0) > MAX_VALUE_BYTES:
            raise BadInput(
                problem=f"the value has {found[0]:,} bytes; the browser shows at most {MAX_VALUE_BYTES:,}",
                advice="read it with `tatame-db psql`",
            )
        written: ColumnElement[Any] = func.to_json(whole)
        if kind_of(column) == "array":
            written = case((is_plain_list(column), func.array_to_json(cast(column, ARRAY(Text)))), else_=written)
        line = func.coalesce(cast(written, Text), "null").label("line")
        yield b'{"value":'
        async with aclosing(read_pieces(connection, select(line).where(has_key(table, key)))) as pieces:
            async for piece in pieces:
                yield piece
        yield b"}"
