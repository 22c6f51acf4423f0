"""Tables whose rows Citus stores outside of them: how many rows they have, and how large they are."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tatame_db.database.citus import knows_citus
from tatame_db.database.dialect import public
from tatame_db.database.errors import NodeUnavailable

if TYPE_CHECKING:
    from sqlalchemy import Connection

SECONDS = 1.0
_LOCK_MS = 100
_IS_PLACED = "SELECT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = to_regclass(:name))"
# What each shard knows of itself, as `evolve.status` reads it of a table.
_SHARDS = """
SELECT sum(result::bigint)::bigint FROM run_command_on_shards(CAST(:name AS regclass), $$
    SELECT greatest(coalesce(nullif(pg_stat_get_live_tuples(oid), 0), reltuples::bigint), 0)
    FROM pg_class WHERE oid = '%s'::regclass $$)
HAVING bool_and(success)
"""


def placed_rows(connection: Connection, name: str) -> int | None:
    """Return about how many rows a table of `public` has that Citus has placed; `None` for others, or without it."""
    if not (knows_citus(connection.dialect) and connection.scalar(text(_IS_PLACED), {"name": public(name)})):
        return None
    # A shard that was never analyzed knows of no row, and then it has few.
    return estimate_of_shards(connection, name) or within(
        connection,
        time.monotonic() + SECONDS,
        f"SELECT count(*) FROM {public(name)}",  # noqa: S608, quoted
    )


def estimate_of_shards(connection: Connection, name: str) -> int | None:
    """Return how many rows the shards of a table say that they have; `None` if a node does not answer soon."""
    rows: int | None = within(connection, time.monotonic() + SECONDS, _SHARDS, name=public(name))
    return rows


def placed_size(connection: Connection, name: str) -> int | None:
    """Return the size in bytes of a table on all nodes of Citus; `None` if one of them does not answer soon."""
    size = "SELECT citus_total_relation_size(CAST(:name AS regclass))"
    size_bytes: int | None = within(connection, time.monotonic() + SECONDS, size, name=public(name))
    return size_bytes


def within(connection: Connection, end: float, query: str, **parameters: str) -> Any:
    """Return the only value of a query; `None` if it takes too long, waits for a lock or is refused.

    `end` is a time of `time.monotonic()`. The transaction and its settings stay as they were.
    """
    left_ms = int((end - time.monotonic()) * 1000)
    if left_ms <= 0:
        return None
    savepoint = connection.begin_nested()
    try:
        for setting in (f"lock_timeout = {_LOCK_MS}", f"statement_timeout = {left_ms}", "row_security = off"):
            connection.execute(text(f"SET LOCAL {setting}"))
        value: Any = connection.scalar(text(query), parameters)
    except (DBAPIError, NodeUnavailable):
        return None
    finally:
        savepoint.rollback()
    return value
