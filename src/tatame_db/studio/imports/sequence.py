"""The sequence of a column whose numbers a file brought: it moves on, so that the next new row gets a free number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from tatame_db.database.dialect import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Column
    from sqlalchemy.ext.asyncio import AsyncConnection

_MAX_STEPS = 1_000_000
"""A million numbers take about a second."""


async def advance(connection: AsyncConnection, columns: Iterable[Column[Any]]) -> str | None:
    """Move the sequences of the columns beyond the greatest number; return a sentence if one of them stays behind.

    Only by `nextval`, which never goes back, and which INSERT needs too. The studio's role may not use `setval`.
    """
    for column in columns:
        table = f"{quoted(column.table.schema or 'public')}.{quoted(column.table.name)}"
        name = await connection.scalar(select(func.pg_get_serial_sequence(table, column.name)))
        greatest = await connection.scalar(select(func.max(column))) if name else None
        if greatest is not None and not await _move(connection, str(name), int(greatest)):
            statement = f"SELECT setval('{str(name).replace(chr(39), chr(39) * 2)}', {greatest})"
            return (
                f"The sequence of {column.name} has not reached {greatest}, the greatest number in the table, so a new"
                f" row may fail. Let the owner of the sequence run `{statement}`."
            )
    return None


async def _move(connection: AsyncConnection, name: str, greatest: int) -> bool:
    try:
        async with connection.begin_nested():
            now, step = (await connection.execute(_NEXT, {"name": name})).one()
            if step == 1 and 0 < greatest - now <= _MAX_STEPS:
                now = await connection.scalar(_SKIP, {"name": name, "steps": greatest - now})
    except DBAPIError:
        # The role may not use the sequence, or it is at its end.
        return False
    return bool(now >= greatest)


_NEXT = text(
    "SELECT nextval(seqrelid), seqincrement FROM pg_sequence WHERE seqrelid = CAST(CAST(:name AS text) AS regclass)"
)
_SKIP = text(
    "SELECT max(nextval(CAST(CAST(:name AS text) AS regclass))) FROM generate_series(1, CAST(:steps AS bigint))"
)
