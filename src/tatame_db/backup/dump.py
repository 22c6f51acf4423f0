"""A logical backup: a dump of one database, for servers that give no copy of their files."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from tatame_db.backup.completeness import complete_now
from tatame_db.backup.contents import Contents, contents_of_dump, differences, lift_limits
from tatame_db.backup.errors import CITUS_ADVICE, CITUS_REASON, BackupRefused, DumpDiffers
from tatame_db.backup.folder import DATA, PART, refuse_small, size_of, sync
from tatame_db.backup.make import Made, in_folder
from tatame_db.backup.manifest import LOGICAL, Manifest
from tatame_db.backup.programs import dump, program_for
from tatame_db.backup.record import system_identifier
from tatame_db.backup.restored import contents_of, restored_scratch
from tatame_db.backup.silence import Standstill, waiting
from tatame_db.backup.verify import DUMP_FILES, list_dump
from tatame_db.database.citus import knows_citus
from tatame_db.database.driver import driver_connection
from tatame_db.roles import explained
from tatame_db.server.run_directory import new_run_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path
    from typing import IO

    from sqlalchemy import Connection as SQLAlchemyConnection

    from tatame_db.backup.contents import Connection
    from tatame_db.database.pool import Database

_LOG_BYTES = 64 << 20
_FACTS = """
SELECT current_setting('server_version'), pg_database_size(current_database()), pg_export_snapshot(),
    pg_is_in_recovery(), clock_timestamp(),
    ARRAY(SELECT DISTINCT rolname::text FROM pg_policy, unnest(polroles) AS role JOIN pg_roles ON pg_roles.oid = role
        WHERE rolname <> 'postgres' AND rolname !~ '^pg_' ORDER BY 1)
"""


def make_dump(
    database: Database,
    folder: Path,
    *,
    keep: int | None = None,
    jobs: int | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
    on_words: Callable[[str], None] = lambda _: None,
) -> Made:
    """Dump a database into a folder, prove the dump, then remove all but its newest `keep` dumps.

    As many tables as there are `jobs` are dumped at a time, each by a connection of its own, and one more reads.

    Every table is read in the snapshot that pg_dump uses, and again in a scratch server into which the dump was
    restored: both have to be equal before it is a backup. The server needs no right but to read. A server that sends
    nothing is reported to `on_words` each minute.

    Raises `BackupRefused`, `BackupFailed`, `DumpRejected`, `DumpDiffers`, `BackupRunning`, `FolderUnusable`,
    `PlaceUnusable`, `SpaceMissing`, `OldBackupsStay`, `RightsMissing`, `DatabaseUnavailable`.
    """

    def write(part: Path, lock: IO[str]) -> Manifest:
        return _write(database, part, lock, on_stage, on_words, jobs=jobs)

    with database.engine.connect() as connection:
        if knows_citus(database.engine.dialect):
            raise BackupRefused(address=database.address, reason=CITUS_REASON, advice=CITUS_ADVICE)
        driver = driver_connection(connection)
        lift_limits(driver)
        size = driver.execute("SELECT pg_database_size(current_database())").fetchone()
    return in_folder(folder, int(size[0] if size else 0) + _LOG_BYTES, write, keep=keep)


@contextlib.contextmanager
def _dropped_by_interrupt(connection: SQLAlchemyConnection) -> Generator[None]:
    """Close the connection after Ctrl-C: a ROLLBACK would wait for a server that is silent."""
    try:
        yield
    except KeyboardInterrupt:
        connection.invalidate()
        raise


def _write(
    database: Database,
    part: Path,
    lock: IO[str],
    on_stage: Callable[[str], None],
    on_words: Callable[[str], None],
    *,
    jobs: int | None,
) -> Manifest:
    address, data, begun = database.address, part / DATA, datetime.now(UTC)
    with (
        explained(address, "backup --logical"),
        database.engine.connect() as connection,
        _dropped_by_interrupt(connection),
    ):
        driver = driver_connection(connection)
        lift_limits(driver)
        complete_until = complete_now(driver)
        driver.rollback()
        driver = driver_connection(connection.execution_options(isolation_level="REPEATABLE READ"))
        lift_limits(driver)
        program = program_for(
            "pg_dump", address, encrypted=driver.pgconn.ssl_in_use, of=driver.info.server_version // 10_000
        )
        facts: Any = driver.execute(_FACTS).fetchone()
        server_version, size, snapshot, standby, ended, roles = facts
        identifier = system_identifier(driver)
        live = _read(driver, on_stage, on_words)
        on_stage("dumping the database")
        on_wait = Standstill(data, on_words).look
        dump(program, address, data, snapshot=snapshot, jobs=jobs, lock=lock, on_wait=on_wait)
    files = list_dump(data)
    (part / DUMP_FILES).write_bytes(files)
    _sync([*data.iterdir(), part / DUMP_FILES])
    sync(data)
    name = str(address.database)
    manifest = Manifest(
        name=part.name.removesuffix(PART),
        method=LOGICAL,
        begun=begun,
        ended=ended.astimezone(UTC),
        made_by=f"tatame-db {version('tatame-db')}",
        server_version=str(server_version).partition(" ")[0],
        system_identifier=identifier,
        superuser="postgres",
        database=name,
        start_lsn="",
        stop_lsn="",
        size_bytes=size_of(data),
        files_sha256=hashlib.sha256(files).hexdigest(),
        roles=roles,
        settings={},
        contents={},
        standby=standby,
        complete_until=complete_until,
    )
    refuse_small(new_run_directory(on_disk=True), size + _LOG_BYTES, "restoring the backup to prove it")
    on_stage("restoring it into a scratch server")
    with restored_scratch(data, manifest, jobs=jobs) as server:
        found = contents_of(server, manifest, lambda table: on_stage(f"reading {table}"))
    # pg_dump reads sequences as they are, and not in its snapshot: those of the dump count.
    expected = {name: Contents(live.size_bytes, live.revision, live.tables, found[name].sequences)}
    if lines := differences(expected, found):
        raise DumpDiffers(differences=lines)
    manifest = replace(manifest, contents=found)
    manifest.write(part)
    return manifest


def _read(driver: Connection, on_stage: Callable[[str], None], on_words: Callable[[str], None]) -> Contents:
    reading = "the tables"

    def begin(table: str) -> None:
        nonlocal reading
        reading = table
        silence.heard()
        on_stage(f"reading {table}")

    with waiting(lambda text: on_words(f"{text}, reading {reading}")) as silence, silence.asking(driver):
        return contents_of_dump(driver, begin)


def _sync(files: list[Path]) -> None:
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
