"""What a backup restores beside the live database: tables and their numbers of rows, never a value."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tatame_db.backup.contents import LARGE_OBJECTS, Contents, read_contents
from tatame_db.backup.errors import NotInBackup
from tatame_db.database.address import readable
from tatame_db.database.driver import driver_connection
from tatame_db.roles import explained

if TYPE_CHECKING:
    from collections.abc import Callable

    from tatame_db.backup.folder import Backup
    from tatame_db.database.pool import Database


@dataclass(frozen=True)
class LiveContents:
    """A live database at a moment."""

    where: str
    """Its address, without the password."""
    name: str
    at: datetime
    contents: Contents


@dataclass(frozen=True)
class Compared:
    """The restored database beside the live one."""

    where: str
    at: datetime
    tables: int
    differences: list[str]


def read_live(database: Database, backup: Backup, on_table: Callable[[str], None]) -> LiveContents:
    """Read the live database in one snapshot; reads every row. Raises `NotInBackup`, `RightsMissing`."""
    address, manifest = database.address, backup.manifest
    name = str(address.database)
    if name not in manifest.contents:
        raise NotInBackup(backup=backup.path, database=name, databases=sorted(manifest.contents))
    with explained(address, "backup --logical"), database.engine.connect() as connection:
        driver = driver_connection(connection.execution_options(isolation_level="REPEATABLE READ"))
        at = datetime.now(UTC)
        contents = read_contents(driver, on_table, kinds="r" if manifest.is_logical else "rm")
    return LiveContents(readable(address), name, at, contents)


def compare_live(restored: dict[str, Contents], live: LiveContents) -> Compared:
    """Compare the tables; sequences are left out, because a recovery moves them on by some numbers."""
    tables = restored[live.name].tables
    if LARGE_OBJECTS not in live.contents.tables:
        # Only some roles may read them.
        tables = {name: table for name, table in tables.items() if name != LARGE_OBJECTS}
    lines: list[str] = []
    for name in sorted(tables.keys() | live.contents.tables.keys()):
        before, now = tables.get(name), live.contents.tables.get(name)
        if before is None or now is None:
            lines.append(f"the table {name} exists only in the {'live database' if before is None else 'backup'}")
        elif before.rows != now.rows:
            lines.append(f"{name} has {now.rows:,} rows, and {before.rows:,} in the backup")
        elif before != now:
            lines.append(f"{name} has {now.rows:,} rows as in the backup, with other values")
    return Compared(live.where, live.at, len(live.contents.tables), lines)
