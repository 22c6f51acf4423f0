"""The rows for which PostgreSQL rejects the deletion of a row, counted in all tables that refer to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, func, literal, select
from sqlalchemy.exc import DBAPIError

from tatame_db.studio.tables import address_of, has_key

if TYPE_CHECKING:
    from sqlalchemy import ForeignKeyConstraint, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

_MOST_COUNTED = 10_000
_COUNT_TIMEOUT = "2s"


async def referring_rows(connection: AsyncConnection, table: Table, key: str) -> list[str]:
    """Write, for each table with rows that refer to a row, how many there are and by which column.

    Tables that the role may not read, and counts that take long, are left out.
    """
    found: list[str] = []
    for other in table.metadata.tables.values():
        for constraint in other.foreign_key_constraints:
            if constraint.referred_table is table and constraint.info.get("rejects_deletion", True):
                rows = await _count(connection, constraint, table, key)
                if rows:
                    found.append(_in_words(rows, constraint))
    return sorted(found)


async def _count(connection: AsyncConnection, constraint: ForeignKeyConstraint, table: Table, key: str) -> int:
    same = [
        element.parent == select(element.column).where(has_key(table, key)).correlate(None).scalar_subquery()
        for element in constraint.elements
    ]
    some = select(literal(1)).select_from(constraint.table).where(and_(*same)).limit(_MOST_COUNTED + 1).subquery()
    try:
        async with connection.begin_nested():
            await connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{_COUNT_TIMEOUT}'")
            return int(await connection.scalar(select(func.count()).select_from(some)) or 0)
    except DBAPIError:
        return 0


def _in_words(rows: int, constraint: ForeignKeyConstraint) -> str:
    number = f"more than {_MOST_COUNTED:,}" if rows > _MOST_COUNTED else f"{rows:,}"
    columns = " and ".join(constraint.column_keys)
    return f"{number} row{'' if rows == 1 else 's'} of {address_of(constraint.table)} by {columns}"
