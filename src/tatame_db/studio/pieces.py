"""Texts that are read in pieces: PostgreSQL cuts a long one, so that neither libpq nor Python holds it as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from tatame_db.database.driver import async_driver_connection

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlalchemy import Select
    from sqlalchemy.ext.asyncio import AsyncConnection

_MOST_BYTES = 100_000


async def read_pieces(connection: AsyncConnection, texts: Select[Any]) -> AsyncGenerator[bytes]:
    """Read the texts of the only column of a query, which is named `line`, in their order as UTF-8."""
    # Without an offset, PostgreSQL would write a text again for each of its pieces.
    line = texts.offset(0).subquery("lines").c.line
    raw = select(func.convert_to(line, "UTF8").label("raw")).offset(0).subquery("written").c.raw
    start = func.generate_series(1, func.octet_length(raw), _MOST_BYTES)
    parts = select(raw, start.label("start")).subquery("parts").c
    compiled = select(func.substring(parts.raw, parts.start, _MOST_BYTES)).compile(dialect=connection.dialect)
    driver = async_driver_connection(await connection.get_raw_connection())
    async with driver.cursor() as cursor:
        async for (piece,) in cursor.stream(str(compiled).encode(), compiled.params, binary=True):
            yield piece
