"""Errors of the nodes of Citus, which name parts of tables: `users_102009` is a part of `users`."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db.database.citus import knows_citus
from tatame_db.studio.errors import EXPECTED, message_of
from tatame_db.studio.transactions import read_transaction

if TYPE_CHECKING:
    from collections.abc import Collection

    import psycopg
    from sqlalchemy.ext.asyncio import AsyncConnection

    from tatame_db.database.pool import AsyncDatabase

_SUFFIX = re.compile(r"(?<=\w)_(\d{1,18})\b")
_QUOTED = re.compile(r'"((?:[^"]|"")+)"')
# Which of these numbers belong to shards: a table of the app may end with a number too.
_SHARDS = text("SELECT shardid::text FROM pg_catalog.pg_dist_shard WHERE shardid = ANY(CAST(:numbers AS bigint[]))")


@dataclass(frozen=True)
class Diagnosis:
    """What the server says of an error, in names of tables, and `None` for what it does not name."""

    message: str
    detail: str
    schema: str | None
    table: str | None
    constraint: str | None
    column: str | None


async def diagnosis_of(connection: AsyncConnection, error: psycopg.Error, tables: Collection[str]) -> Diagnosis:
    """Return what is known of an error; `tables` are names of tables. The transaction must not have failed."""
    diag = error.diag
    found = Diagnosis(
        message_of(error),
        diag.message_detail or "",
        diag.schema_name,
        diag.table_name,
        diag.constraint_name,
        diag.column_name,
    )
    if not knows_citus(connection.dialect):
        return found
    plain = {name: await without_shards(connection, name) for name in _QUOTED.findall(found.message)}
    if found.table is None:
        found = _named_in_message(found, plain, tables)
    return replace(
        found,
        message=await without_shards(connection, found.message),
        detail=await without_shards(connection, found.detail),
        table=found.table and await without_shards(connection, found.table),
        constraint=found.constraint and await without_shards(connection, found.constraint),
    )


async def without_shards(connection: AsyncConnection, written: str) -> str:
    """Return a text with the names of tables and constraints in place of those of their shards."""
    numbers = list(set(_SUFFIX.findall(written)))
    if not numbers or not knows_citus(connection.dialect):
        return written
    shards = set(await connection.scalars(_SHARDS, {"numbers": numbers}))
    return _SUFFIX.sub(lambda found: "" if found[1] in shards else found[0], written)


async def texts_without_shards(database: AsyncDatabase, texts: dict[str, str | None]) -> dict[str, str | None]:
    """Return texts without the names of shards, as far as the database answers now."""
    if not (knows_citus(database.engine.dialect) and any(_SUFFIX.search(written or "") for written in texts.values())):
        return texts
    with suppress(*EXPECTED):
        async with read_transaction(database) as connection:
            return {key: written and await without_shards(connection, written) for key, written in texts.items()}
    return texts


def _named_in_message(found: Diagnosis, plain: dict[str, str], tables: Collection[str]) -> Diagnosis:
    """Fill in the names that the message has: of an error of a node, the coordinator passes on no other."""
    of_shards = [name for written, name in plain.items() if name != written]
    table = next((name for name in reversed(of_shards) if name in tables), None)
    constraint = next((name for name in of_shards if name not in tables), None)
    # Such as `null value in column "name" of relation "users_102009"`.
    others = [name for written, name in plain.items() if name == written] if table and not constraint else []
    column = next(iter(others), None)
    return replace(found, table=table, constraint=constraint, column=column)
