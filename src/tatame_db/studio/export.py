"""All the rows that a filter means, as CSV or JSON, row by row and never all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import ColumnElement, Select, Text, func, select

from tatame_db.database.driver import async_driver_connection
from tatame_db.studio.session import EXPORT_SECONDS, reading
from tatame_db.studio.tables import kind_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from sqlalchemy import Column

    from tatame_db.database.pool import AsyncDatabase
    from tatame_db.studio.rows import Question

MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
_PIECE_CHARACTERS = 64_000


async def exported(database: AsyncDatabase, asked: Question, form: str) -> AsyncGenerator[bytes]:
    """Write rows as CSV, where a text is quoted and NULL is nothing, or as a JSON list of objects."""
    lines = _csv(database, asked) if form == "csv" else _json(database, asked)
    held: list[str] = []
    size = 0
    async for line in lines:
        held.append(line)
        size += len(line)
        if size > _PIECE_CHARACTERS:
            yield "".join(held).encode()
            held, size = [], 0
    yield "".join(held).encode()


async def _csv(database: AsyncDatabase, asked: Question) -> AsyncGenerator[str]:
    yield ",".join(column.name for column in asked.columns) + "\r\n"
    # Put together by the server, which is quicker at it.
    line = func.concat_ws(",", *(func.coalesce(_quoted(column), "") for column in asked.columns))
    async for text in _lines(database, _asked(asked, [line])):
        yield text + "\r\n"


def _quoted(column: Column[Any]) -> ColumnElement[Any]:
    whole = sqlalchemy.cast(column, Text)
    return '"' + func.replace(whole, '"', '""') + '"' if kind_of(column) in {"text", "array"} else whole


async def _json(database: AsyncDatabase, asked: Question) -> AsyncGenerator[str]:
    row = _asked(asked, asked.columns).subquery("row")
    before = "[\n"
    async for text in _lines(database, select(sqlalchemy.cast(func.row_to_json(row.table_valued()), Text))):
        yield f"{before}{text}"
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _asked(asked: Question, columns: Sequence[ColumnElement[Any]]) -> Select[Any]:
    query = select(*columns).order_by(*(column.desc() if down else column.asc() for column, down in asked.order))
    return query if asked.condition is None else query.where(asked.condition)


async def _lines(database: AsyncDatabase, query: Select[Any]) -> AsyncGenerator[str]:
    async with reading(database, EXPORT_SECONDS) as connection:
        compiled = query.compile(dialect=connection.dialect)
        driver = async_driver_connection(await connection.get_raw_connection())
        async with driver.cursor() as cursor:
            # One row at a time, for a single row may be megabytes.
            async for (line,) in cursor.stream(str(compiled).encode(), compiled.params):
                yield line
