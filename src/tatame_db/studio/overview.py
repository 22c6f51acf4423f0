"""What there is, how big it is, and how the server feels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, cast, literal, select, text, union_all

from tatame_db import evolve
from tatame_db.errors import TatameError
from tatame_db.evolve.status import table_sizes
from tatame_db.schema import Base
from tatame_db.studio.tables import key_of

if TYPE_CHECKING:
    from sqlalchemy import Engine, Select, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

_SERVER = text(
    "SELECT current_setting('server_version') AS server_version,"
    " extract(epoch FROM now() - pg_postmaster_start_time())::bigint AS uptime_seconds,"
    " pg_database_size(current_database()) AS size_bytes,"
    " (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,"
    " current_setting('max_connections')::int AS max_connections"
)


async def server(connection: AsyncConnection) -> dict[str, Any]:
    """Say how the server and the tables are; a table that is missing has no facts."""
    facts = dict((await connection.execute(_SERVER)).mappings().one())
    found = await connection.execute(table_sizes())
    sizes = {row["name"]: dict(row) for row in found.mappings()}
    newest = await _newest(connection, list(sizes))
    tables = [
        sizes.get(name, {"name": name, "size_bytes": None, "rows_estimated": None})
        | {"missing": name not in sizes, "last_activity": newest.get(name)}
        for name in Base.metadata.tables
    ]
    return facts | {"server_version": facts["server_version"].split()[0], "tables": tables}


async def _newest(connection: AsyncConnection, names: list[str]) -> dict[str, str]:
    """Say when the row with the highest key was made, which its index finds at once."""
    if not names:
        return {}
    found = await connection.execute(union_all(*(_newest_of(Base.metadata.tables[name]) for name in names)))
    return {row[0]: row[1] for row in found.all()}  # pyright: ignore[reportGeneralTypeIssues]  # pairs


def _newest_of(table: Table) -> Select[str, str]:
    newest = select(cast(table.columns["created_at"], Text)).order_by(key_of(table).desc()).limit(1).scalar_subquery()
    return select(literal(str(table.name)), newest)


def schema(engine: Engine) -> dict[str, Any]:
    """Say which revision the database has and what is pending, or what stands in the way of knowing it."""
    try:
        found = evolve.status(engine)
    except TatameError as error:
        return {"revision": None, "pending": [], "problem": {"what": error.what, "fix": error.fix}}
    return {"revision": found.revision, "pending": found.pending, "problem": None}


def drift(engine: Engine) -> dict[str, Any]:
    """Compare the database with its migrations, on a scratch server; takes seconds."""
    found = evolve.check(engine)
    return {"drift": found.database, "migrations": found.migrations, "heads": found.heads, "revision": found.revision}
