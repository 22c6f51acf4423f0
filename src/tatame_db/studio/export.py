"""All the rows that a filter means, as CSV or JSON, row by row and never all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import sqlalchemy
from sqlalchemy import ColumnElement, Select, Text, func, select

from tatame_db.studio.session import EXPORT_SECONDS, reading

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    import psycopg

    from tatame_db.database import Database
    from tatame_db.studio.rows import Question

MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
_PIECE_CHARACTERS = 64_000


async def exported(database: Database, asked: Question, form: str) -> AsyncGenerator[bytes]:
    """Write rows as CSV, where NULL is nothing and an empty text is `""`, or as a JSON list of objects."""
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


async def _csv(database: Database, asked: Question) -> AsyncGenerator[str]:
    query = _asked(asked, [sqlalchemy.cast(column, Text).label(None) for column in asked.columns])
    yield ",".join(column.name for column in asked.columns) + "\r\n"
    async for row in _rows(database, query):
        yield ",".join("" if cell is None else _quoted(cell) for cell in row) + "\r\n"


def _quoted(cell: str) -> str:
    plain = cell and not any(special in cell for special in ',"\r\n')
    return cell if plain else f'"{cell.replace(chr(34), chr(34) * 2)}"'


async def _json(database: Database, asked: Question) -> AsyncGenerator[str]:
    row = _asked(asked, asked.columns).subquery("row")
    before = "[\n"
    async for (text,) in _rows(database, select(sqlalchemy.cast(func.row_to_json(row.table_valued()), Text))):
        yield f"{before}{text}"
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _asked(asked: Question, columns: Sequence[ColumnElement[Any]]) -> Select[Any]:
    query = select(*columns).order_by(*(column.desc() if down else column.asc() for column, down in asked.order))
    return query if asked.condition is None else query.where(asked.condition)


async def _rows(database: Database, query: Select[Any]) -> AsyncGenerator[tuple[str | None, ...]]:
    async with reading(database, EXPORT_SECONDS) as connection:
        compiled = query.compile(dialect=connection.dialect)
        raw = await connection.get_raw_connection()
        driver = cast("psycopg.AsyncConnection[tuple[str | None, ...]]", raw.driver_connection)
        async with driver.cursor() as cursor:
            # One row at a time, for a single row may be megabytes.
            async for found in cursor.stream(str(compiled).encode(), compiled.params):
                yield found
