"""Exports of all the rows of a selection, as CSV or JSON, streamed row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import ColumnElement, Select, Text, func, literal_column, select

from tatame_db.database.driver import async_driver_connection
from tatame_db.studio.rows import sorted_by
from tatame_db.studio.tables import kind_of
from tatame_db.studio.transactions import EXPORT_SECONDS, read_transaction

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from sqlalchemy import Column

    from tatame_db.database.pool import AsyncDatabase
    from tatame_db.studio.rows import Selection

MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
_PIECE_CHARACTERS = 64_000


async def export(database: AsyncDatabase, selection: Selection, form: str) -> AsyncGenerator[bytes]:
    """Write the rows as CSV, where a text is quoted and NULL is empty, or as a JSON array of objects."""
    lines = _csv(database, selection) if form == "csv" else _json(database, selection)
    pending: list[str] = []
    characters = 0
    async for line in lines:
        pending.append(line)
        characters += len(line)
        if characters > _PIECE_CHARACTERS:
            yield "".join(pending).encode()
            pending, characters = [], 0
    yield "".join(pending).encode()


async def _csv(database: AsyncDatabase, selection: Selection) -> AsyncGenerator[str]:
    yield ",".join(column.name for column in selection.columns) + "\r\n"
    # PostgreSQL joins the values of a line faster than Python does.
    line = func.concat_ws(",", *(func.coalesce(_csv_value(column), "") for column in selection.columns))
    async for text in _lines(database, _query(selection, [line])):
        yield text + "\r\n"


def _csv_value(column: Column[Any]) -> ColumnElement[Any]:
    whole = sqlalchemy.cast(column, Text)
    return '"' + func.replace(whole, '"', '""') + '"' if kind_of(column) in {"text", "array"} else whole


async def _json(database: AsyncDatabase, selection: Selection) -> AsyncGenerator[str]:
    # Labelled, because SQLAlchemy shortens a name that has nearly the greatest length.
    rows = _query(selection, [column.label(column.name) for column in selection.columns]).subquery("exported")
    # Not the bare alias, which would be the column of that name if the table has one.
    row = func.row_to_json(literal_column("exported.*"))
    before = "[\n"
    async for text in _lines(database, select(sqlalchemy.cast(row, Text)).select_from(rows)):
        yield f"{before}{text}"
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _query(selection: Selection, columns: Sequence[ColumnElement[Any]]) -> Select[Any]:
    return selection.filtered(select(*columns).order_by(*sorted_by(selection.order)))


async def _lines(database: AsyncDatabase, query: Select[Any]) -> AsyncGenerator[str]:
    async with read_transaction(database, EXPORT_SECONDS) as connection:
        compiled = query.compile(dialect=connection.dialect)
        driver = async_driver_connection(await connection.get_raw_connection())
        async with driver.cursor() as cursor:
            # One row at a time: a single row may have megabytes.
            async for (line,) in cursor.stream(str(compiled).encode(), compiled.params):
                yield line
