"""The server, its schema and its tables: versions, sizes, and what the database is missing."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Text, cast, literal, select, text, union_all

from tatame_db import doctor, evolve
from tatame_db.database.placed import placed_size
from tatame_db.evolve.counts import row_counts
from tatame_db.evolve.placement import elsewhere_stored
from tatame_db.evolve.status import table_sizes
from tatame_db.studio.day import summary
from tatame_db.studio.errors import UNAVAILABLE, problem_of, status_of, translated
from tatame_db.studio.tables import key_columns, shown_tables
from tatame_db.studio.transactions import read_transaction
from tatame_db.studio.views import refuse_unreadable_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy import URL, Column, Engine, Select, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from tatame_db.database.pool import AsyncDatabase
    from tatame_db.doctor import Setup

T = TypeVar("T")

_SERVER = text(
    "SELECT current_setting('server_version') AS server_version,"
    " extract(epoch FROM now() - pg_postmaster_start_time())::bigint AS uptime_seconds,"
    " pg_database_size(current_database()) AS size_bytes,"
    " (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,"
    " current_setting('max_connections')::int AS max_connections"
)
_READABLE = text(
    "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    " AND has_schema_privilege(relnamespace, 'USAGE') AND has_table_privilege(oid, 'SELECT')"
)


@dataclass(frozen=True)
class TableOverview:
    """The size of a table; `newest_row` is when the row with the highest key was created, in UTC.

    The size and the estimate are `None` for a missing table, and the estimate for a table that cannot be counted
    soon or that the role may not read.
    """

    name: str
    size_bytes: int | None
    rows_estimated: int | None
    newest_row: str | None
    missing: bool
    place: str | None
    """Where Citus stores the rows."""


async def cards(database: AsyncDatabase, engine: Engine) -> dict[str, Any]:
    """Return what all cards show; `problems` says why a card is empty, such as a right that the role lacks.

    Raises what makes the database unreachable, because then there is no card.
    """
    found = await asyncio.gather(
        _read(database, server_facts),
        _read(database, table_overviews),
        asyncio.to_thread(schema_overview, engine),
        asyncio.to_thread(move_overview, engine),
        return_exceptions=True,
    )
    shown: dict[str, Any] = {"move": None}
    problems: dict[str, Any] = {}
    for card, answer in zip(("server", "tables", "schema", "move"), found, strict=True):
        if not isinstance(answer, BaseException):
            shown |= answer
        elif isinstance(answer, Exception) and status_of(problem := translated(answer)) != UNAVAILABLE:
            problems[card] = problem_of(problem)
        else:
            raise answer
    return shown | {"problems": problems}


async def _read(database: AsyncDatabase, function: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    async with read_transaction(database) as connection:
        return await function(connection)


async def server_facts(connection: AsyncConnection) -> dict[str, Any]:
    """Return facts about the server and the database. Raises `ViewsUnreadable`."""
    await refuse_unreadable_async(connection, "pg_stat_activity")
    facts = dict((await connection.execute(_SERVER)).mappings().one())
    return facts | {"server_version": facts["server_version"].split()[0]}


async def table_overviews(connection: AsyncConnection) -> dict[str, Any]:
    """Return all tables of the models. Waits only a moment for a lock, because the other cards are ready."""
    await connection.exec_driver_sql("SET LOCAL lock_timeout = '500ms'")
    found = (await connection.execute(table_sizes())).all()
    # A table that the role may not read has a size too, and must not hide the others.
    readable = set(await connection.scalars(_READABLE))
    places = await connection.run_sync(evolve.places) or {}
    placed = elsewhere_stored(places)
    known = [row for row in found if row.name in readable]
    rows = await connection.run_sync(row_counts, known, placed)
    sizes = {row.name: row.size_bytes for row in found}
    for name in placed & sizes.keys():
        sizes[name] = await connection.run_sync(placed_size, name)
    newest = await _newest_rows(connection, [row.name for row in known])
    tables = [
        TableOverview(
            name,
            sizes.get(name),
            rows.get(name),
            newest.get(name),
            missing=name not in sizes,
            place=str(places[name]) if name in places else None,
        )
        for name in shown_tables()
    ]
    return {"tables": tables}


async def _newest_rows(connection: AsyncConnection, names: list[str]) -> dict[str, str | None]:
    # The index of the key finds the newest row at once; there is none on `created_at`.
    tables = [
        table
        for name, table in shown_tables().items()
        if name in names and "created_at" in table.columns and len(_numbers(table)) == 1
    ]
    if not tables:
        return {}
    found = await connection.execute(union_all(*map(newest_row, tables)))
    return {row[0]: row[1] for row in found.all()}  # pyright: ignore[reportGeneralTypeIssues]  # pairs


def _numbers(table: Table) -> list[Column[Any]]:
    """Return the key without the column by which a partitioned table is divided."""
    return [column for column in key_columns(table) if column.name != "created_at"]


def newest_row(table: Table) -> Select[str, str]:
    """Select the name of a table, and when its row with the highest key was created."""
    newest = (
        select(cast(table.columns["created_at"], Text)).order_by(_numbers(table)[0].desc()).limit(1).scalar_subquery()
    )
    return select(literal(str(table.name)), newest)


def schema_overview(engine: Engine) -> dict[str, Any]:
    """Return the revision of the database and its pending migrations. Raises what hides them."""
    found = evolve.status(engine)
    return {"revision": found.revision, "pending": found.pending}


def move_overview(engine: Engine) -> dict[str, Any]:
    """Return how far the move is, if one runs."""
    return {"move": summary(engine)}


def examination(address: URL, setup: Setup) -> dict[str, Any]:
    """Examine the database as the role of the studio, which may see less than the app; takes seconds."""
    examined = doctor.examine(address, setup)
    return asdict(examined) | {"counts": examined.counts}


def drift(engine: Engine) -> dict[str, Any]:
    """Compare the database with its migrations on a scratch server, which takes seconds."""
    found = evolve.check(engine)
    edited = [f"edited after it was applied to this database: {file}" for file in found.edited]
    return {"drift": edited + (found.database or []), "migrations": found.migrations or [], "heads": found.heads}
