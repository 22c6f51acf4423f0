"""The number of rows of each table: the server's estimate, or a count where it has none and the table answers soon."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tatame_db.database.dialect import public
from tatame_db.database.placed import SECONDS, estimate_of_shards, within

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from sqlalchemy import Connection, Row


def row_counts(
    connection: Connection, found: Sequence[Row[Any]], placed: AbstractSet[str] = frozenset()
) -> dict[str, int | None]:
    """Return the number of rows of each table of `estimated_rows`; `None` where it takes too long to know.

    `placed` are the tables whose rows Citus stores elsewhere: the server's own estimate is of the empty shell, or of
    what was there before. They are counted, or estimated by their shards. All counts together take a second at most,
    and a tenth for a lock.
    """
    end = time.monotonic() + SECONDS
    return {row.name: _count(connection, row, end, is_placed=row.name in placed) for row in found}


def _count(connection: Connection, row: Row[Any], end: float, *, is_placed: bool) -> int | None:
    if not is_placed and not any(_may_have_rows(connection, part, end) for part in row.unknown):
        return int(row.rows_estimated or 0)
    counted = within(connection, end, f"SELECT count(*) FROM {public(row.name)}")
    return estimate_of_shards(connection, row.name) if counted is None and is_placed else counted


def _may_have_rows(connection: Connection, part: str, end: float) -> bool:
    """Return whether a table has rows; true if that cannot be asked at once."""
    return within(connection, end, f"SELECT EXISTS (SELECT FROM {part})") is not False
