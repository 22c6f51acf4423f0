"""Transactions, one for each request: read-only or writing, with limits on their time and on waiting for locks."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy.exc import DBAPIError

from tatame_db.database.text_output import TEXT_OUTPUT
from tatame_db.roles.missing import error_of_refusal, is_refusal
from tatame_db.studio.errors import CommitUnconfirmed, is_unavailable, message_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlalchemy.ext.asyncio import AsyncConnection

    from tatame_db.database.pool import AsyncDatabase

PAGE_SECONDS = 30
QUERY_SECONDS = 300
EXPORT_SECONDS = 3600
_LOCK_SECONDS = 5
SILENT_IN_THE_LOG = {
    "log_min_messages": "fatal",
    "log_min_error_statement": "panic",
    "log_parameter_max_length_on_error": "0",
}
"""Keeps failed statements out of the log of the server: they and their errors contain values of rows. A role of the
embedded server has these settings; elsewhere only a superuser may set them."""
_COMMON_SETTINGS = {
    **TEXT_OUTPUT,
    **SILENT_IN_THE_LOG,
    "lock_timeout": f"{_LOCK_SECONDS}s",
    # An idle transaction holds its locks.
    "idle_in_transaction_session_timeout": f"{QUERY_SECONDS}s",
}
_SETTINGS = {
    **_COMMON_SETTINGS,
    # A generic plan cannot use an index for `starts`.
    "plan_cache_mode": "force_custom_plan",
    # The names of types are compared with known ones.
    "quote_all_identifiers": "off",
}
SESSION_SETTINGS = {**_COMMON_SETTINGS, "statement_timeout": f"{QUERY_SECONDS}s"}
"""The settings with which the session of a SQL tab begins; its statements may change them."""
# A hostile `search_path` finds no other functions and operators than these.
APPLY_SETTINGS = """
SELECT pg_catalog.set_config(name, value, %(local)s)
FROM pg_catalog.json_each_text(CAST(%(settings)s AS pg_catalog.json)) AS setting(name, value)
WHERE NOT pg_catalog.starts_with(name, 'log_') OR pg_catalog.current_setting('is_superuser')::pg_catalog.bool
"""
"""Sets what the role may set. The first query of each transaction: after it, `SET TRANSACTION READ WRITE` is rejected.
"""


# Spreadsheets of the countries where the app is used write `26/11/2026`. Texts in ISO form mean the same.
_DAY_FIRST = {"DateStyle": "ISO, DMY"}


def _settings(timeout_seconds: int, **others: str) -> dict[str, str | bool]:
    settings = _SETTINGS | others | {"statement_timeout": f"{timeout_seconds}s"}
    return {"settings": json.dumps(settings), "local": True}


@contextlib.asynccontextmanager
async def _explained(database: AsyncDatabase, command: str) -> AsyncGenerator[None]:
    try:
        yield
    except DBAPIError as error:
        if not is_refusal(error):
            raise
        raise await asyncio.to_thread(error_of_refusal, database.address, command, error) from error


@contextlib.asynccontextmanager
async def read_transaction(
    database: AsyncDatabase, timeout_seconds: int = PAGE_SECONDS
) -> AsyncGenerator[AsyncConnection]:
    """Open a read-only transaction in which all statements see one snapshot."""
    engine = database.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    async with _explained(database, "studio"), engine.connect() as connection:
        await connection.exec_driver_sql(APPLY_SETTINGS, _settings(timeout_seconds))
        yield connection


@contextlib.asynccontextmanager
async def write_transaction(database: AsyncDatabase) -> AsyncGenerator[AsyncConnection]:
    """Open a transaction that is committed at the end, and rolled back after an error; it reads dates day first.

    Raises `CommitUnconfirmed` if the connection is lost while it is committed.
    """
    engine = database.engine.execution_options(postgresql_readonly=False)
    async with _explained(database, "studio --write"), engine.connect() as connection:
        await connection.exec_driver_sql(APPLY_SETTINGS, _settings(PAGE_SECONDS, **_DAY_FIRST))
        yield connection
        try:
            await connection.commit()
        except DBAPIError as error:
            if not (isinstance(error.orig, psycopg.Error) and is_unavailable(error.orig)):
                raise
            raise CommitUnconfirmed(reason=message_of(error.orig)) from error
        except asyncio.CancelledError:
            raise CommitUnconfirmed(reason="no answer arrived in time") from None
