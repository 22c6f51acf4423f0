"""A transaction for each request: read-only unless it is to write, and with the words of values pinned."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db.database.driver import async_driver_connection
from tatame_db.database.text_output import TEXT_OUTPUT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import psycopg
    from sqlalchemy.ext.asyncio import AsyncConnection

    from tatame_db.database.pool import AsyncDatabase

PAGE_SECONDS = 30
QUERY_SECONDS = 300
EXPORT_SECONDS = 3600
_LOCK_SECONDS = 5
_PINNED = {
    **TEXT_OUTPUT,
    # A plan for any value would not know that `starts` can use an index.
    "plan_cache_mode": "force_custom_plan",
    "lock_timeout": f"{_LOCK_SECONDS}s",
    # Who sleeps in the middle of a transaction lets others wait.
    "idle_in_transaction_session_timeout": f"{QUERY_SECONDS}s",
}
# A query, and the first of each transaction: after one, `SET TRANSACTION READ WRITE` is refused.
_PIN = "SELECT set_config(name, value, true) FROM json_each_text(CAST(%(settings)s AS json)) AS setting(name, value)"


def _settings(seconds: int) -> dict[str, str]:
    return {"settings": json.dumps(_PINNED | {"statement_timeout": f"{seconds}s"})}


@contextlib.asynccontextmanager
async def reading(database: AsyncDatabase, seconds: int = PAGE_SECONDS) -> AsyncGenerator[AsyncConnection]:
    """Open a read-only transaction that sees one moment."""
    engine = database.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    async with engine.connect() as connection:
        await connection.exec_driver_sql(_PIN, _settings(seconds))
        yield connection


@contextlib.asynccontextmanager
async def writing(database: AsyncDatabase) -> AsyncGenerator[AsyncConnection]:
    """Open a transaction that is committed at the end, and undone after an error."""
    async with database.engine.execution_options(postgresql_readonly=False).begin() as connection:
        await connection.exec_driver_sql(_PIN, _settings(PAGE_SECONDS))
        yield connection


@contextlib.asynccontextmanager
async def discarded(database: AsyncDatabase, *, write: bool) -> AsyncGenerator[psycopg.AsyncConnection]:
    """Open a transaction on a connection that nobody uses again, whatever is left behind in its session."""
    engine = database.engine.execution_options(postgresql_readonly=not write)
    async with engine.connect() as connection:
        try:
            driver = async_driver_connection(await connection.get_raw_connection())
            await driver.execute(_PIN, _settings(QUERY_SECONDS))
            yield driver
        finally:
            await connection.invalidate()


async def answers(database: AsyncDatabase) -> None:
    """Make one round trip. Raises what stands in the way."""
    async with database.engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
