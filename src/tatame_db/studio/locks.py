"""Saves that wait too long for a lock: which SQL tab of the studio itself holds it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tatame_db.database.dialect import quoted_table
from tatame_db.errors import fact
from tatame_db.studio.errors import Refused
from tatame_db.studio.tables import address_of, references_to, table_named
from tatame_db.studio.transactions import read_transaction

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from sqlalchemy import Table

    from tatame_db.database.pool import AsyncDatabase
    from tatame_db.studio.sql.sessions import Sessions


@fact
class LockedByTab(Refused):
    """An open transaction of a SQL tab holds locks on the tables of a save."""

    tables: list[str]
    tabs: list[str]
    status = 422
    what = "an open transaction in a SQL tab of this studio has locks on {tables}"
    means = "Nothing was saved."
    fix = "commit the transaction or roll it back, then save again"

    @property
    def details(self) -> dict[str, Any]:
        """The names that the browser has chosen for the tabs."""
        return {"tabs": self.tabs}


# Readers take `AccessShareLock` only, which hinders no change of a row.
_HELD = text(
    "SELECT DISTINCT pid, name FROM pg_locks JOIN unnest(CAST(:tables AS text[])) AS name"
    " ON relation = to_regclass(name) WHERE pid = ANY (CAST(:pids AS int[])) AND granted"
    " AND locktype = 'relation' AND mode <> 'AccessShareLock' ORDER BY name"
)


@asynccontextmanager
async def explained_locks(database: AsyncDatabase, sessions: Sessions, names: Iterable[str]) -> AsyncGenerator[None]:
    """Name the SQL tab whose open transaction a save of these tables waited for. Raises `LockedByTab`."""
    try:
        yield
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            holders = await _holders(database, sessions.in_transaction(), set(names))
            if holders is not None:
                raise holders from error
        raise


async def _holders(database: AsyncDatabase, tabs: dict[int, str], names: set[str]) -> LockedByTab | None:
    if not tabs:
        return None
    async with read_transaction(database) as connection:
        changed = [await table_named(connection, name, referrers=True) for name in names]
        # A foreign key locks rows of the table at its other end.
        tables = {quoted_table(other): address_of(other) for table in changed for other in [table, *_neighbours(table)]}
        values = {"tables": list(tables), "pids": list(tabs)}
        held = (await connection.execute(_HELD, values)).all()
    if not held:
        return None
    locked = {tables[name] for _, name in held}
    pids = dict.fromkeys(pid for pid, _ in held)
    return LockedByTab(tables=sorted(locked & names or locked), tabs=[tabs[pid] for pid in pids])


def _neighbours(table: Table) -> set[Table]:
    return {key.column.table for key in table.foreign_keys} | {column.table for column in references_to(table)}
