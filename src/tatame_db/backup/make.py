"""A base backup: copied, verified, restored into a scratch server, and read there; only then it gets its name."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from tatame_db.backup.completeness import complete_now, last_commit, server_clock
from tatame_db.backup.contents import lift_limits
from tatame_db.backup.errors import CITUS_ADVICE, CITUS_REASON, BackupFailed, BackupRefused, FolderUnusable
from tatame_db.backup.folder import (
    DATA,
    PART,
    Backup,
    locked,
    new_name,
    refuse_scratch,
    refuse_small,
    remove_leftovers,
    size_of,
    sync,
)
from tatame_db.backup.manifest import BASE, Manifest
from tatame_db.backup.programs import ProgramRejected, base_backup, program_for, verify_files
from tatame_db.backup.removal import remove_old
from tatame_db.backup.restored import SETTINGS, contents_of, restored_scratch, surplus_log
from tatame_db.backup.silence import Standstill, waiting
from tatame_db.backup.verify import FILES, checksum_of
from tatame_db.database.citus import knows_citus
from tatame_db.database.dialect import quoted
from tatame_db.database.driver import driver_connection
from tatame_db.roles import explained
from tatame_db.server.run_directory import new_run_directory
from tatame_db.server.wheel import MAJOR_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import IO

    from tatame_db.database.pool import Database

_MEGABYTE = 1 << 20
# The write-ahead log of the copy, and that of the scratch server.
_LOG_BYTES = 128 * _MEGABYTE

_FACTS = """
SELECT current_setting('server_version_num')::int / 10000, current_setting('server_version'),
    (SELECT rolname FROM pg_roles WHERE oid = 10), current_user::text,
    (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user),
    current_setting('wal_level'), current_setting('max_wal_senders')::int,
    pg_is_in_recovery(),
    ARRAY(SELECT spcname::text FROM pg_tablespace WHERE pg_tablespace_location(oid) LIKE '/%' ORDER BY 1),
    (SELECT coalesce(sum(pg_database_size(oid)), 0)::bigint FROM pg_database
        WHERE has_database_privilege(oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'USAGE'))
"""


@dataclass(frozen=True)
class Made:
    """A new backup, and the names of the old ones that were removed after it."""

    backup: Backup
    removed: list[str]


@dataclass(frozen=True)
class _Source:
    version: str
    superuser: str
    size_bytes: int
    settings: dict[str, str]
    standby: bool
    program: Path
    complete_until: datetime
    """Before the copy begins."""


def make(
    database: Database,
    folder: Path,
    *,
    keep: int | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
    on_words: Callable[[str], None] = lambda _: None,
) -> Made:
    """Make a base backup of the server of a database in a folder, prove it, then remove old ones.

        made = backup.make(database, Path("/srv/backups"), keep=7)

    The files are verified by their checksums, restored into a scratch server on this machine, and each row is read
    there; the digests become part of the manifest. A failure or Ctrl-C leaves nothing; what a killed process left,
    which no command takes for a backup, is removed by the next one. A copy that does not grow is reported to `on_words`
    each minute. With `keep`, all but the newest base backups of
    this server are removed; dumps and the backups of other servers stay.

    Raises `BackupRefused`, `BackupFailed`, `BackupRunning`, `FolderUnusable`, `PlaceUnusable`, `SpaceMissing`,
    `OldBackupsStay`, `DatabaseUnavailable`.
    """
    source = _examine(database)
    return in_folder(
        folder,
        source.size_bytes + _LOG_BYTES,
        lambda part, lock: _write(database, source, part, lock=lock, on_stage=on_stage, on_words=on_words),
        keep=keep,
    )


def in_folder(folder: Path, needed: int, write: Callable[[Path, IO[str]], Manifest], *, keep: int | None) -> Made:
    """Let a function write a backup under another name, rename it when it is complete, and remove old ones."""
    folder = folder.expanduser().absolute()
    refuse_scratch()
    with locked(folder) as lock:
        remove_leftovers(folder)
        refuse_small(folder, needed, "the backup")
        final = folder / new_name(folder)
        part = final.with_name(final.name + PART)
        try:
            part.mkdir(mode=0o700)
            made = write(part, lock)
            sync(part)
            part.rename(final)
        except OSError as error:
            raise FolderUnusable(folder=folder, reason=error.strerror or str(error)) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        sync(folder)
        backup = Backup(final, made)
        removed = remove_old(backup, keep) if keep else []
    return Made(backup, removed)


def _write(
    database: Database,
    source: _Source,
    part: Path,
    *,
    lock: IO[str],
    on_stage: Callable[[str], None],
    on_words: Callable[[str], None],
) -> Manifest:
    data, begun = part / DATA, datetime.now(UTC)
    on_stage("copying the server's files")
    base_backup(
        source.program,
        database.address,
        data,
        lock=lock,
        on_progress=lambda percent: on_stage(f"copying the server's files: {percent} %"),
        on_wait=Standstill(data, on_words).look,
    )
    with waiting(on_words), database.engine.connect() as connection:
        driver = driver_connection(connection)
        lift_limits(driver)
        ended = server_clock(driver)
    on_stage("verifying the checksums")
    try:
        verify_files(data)
    except ProgramRejected as error:
        raise BackupFailed(action="pg_verifybackup", output=str(error)) from None
    files = json.loads((data / FILES).read_text())
    [wal] = files["WAL-Ranges"][-1:]
    manifest = Manifest(
        name=part.name.removesuffix(PART),
        method=BASE,
        begun=begun,
        ended=ended,
        made_by=f"tatame-db {version('tatame-db')}",
        server_version=source.version,
        system_identifier=str(files["System-Identifier"]),
        superuser=source.superuser,
        database=str(database.address.database),
        start_lsn=wal["Start-LSN"],
        stop_lsn=wal["End-LSN"],
        size_bytes=size_of(data),
        files_sha256=checksum_of(data),
        roles=[],
        settings=source.settings,
        contents={},
        standby=source.standby,
        complete_until=_complete_until(source, data, wal, ended),
    )
    refuse_small(
        new_run_directory(on_disk=True),
        manifest.size_bytes + _LOG_BYTES + surplus_log(data),
        "restoring the backup to prove it",
    )
    on_stage("restoring it into a scratch server")
    with restored_scratch(data, manifest) as server:
        contents = contents_of(server, manifest, lambda table: on_stage(f"reading {table}"))
    manifest = replace(manifest, contents=contents)
    manifest.write(part)
    return manifest


def _complete_until(source: _Source, data: Path, wal: dict[str, Any], ended: datetime) -> datetime:
    try:
        last = last_commit(data, wal)
    except ProgramRejected as error:
        raise BackupFailed(action="pg_waldump", output=str(error)) from None
    # A clock that was set back during the copy proves nothing.
    return last if last and source.complete_until < last < ended else source.complete_until


def _examine(database: Database) -> _Source:
    """Ask the server, and refuse before anything is written."""
    address = database.address

    def refused(reason: str, advice: str) -> BackupRefused:
        return BackupRefused(address=address, reason=reason, advice=advice)

    with explained(address, "backup"), database.engine.connect() as connection:
        driver = driver_connection(connection)
        lift_limits(driver)
        if knows_citus(database.engine.dialect):
            raise refused(CITUS_REASON, CITUS_ADVICE)
        complete_until = complete_now(driver)
        facts: Any = driver.execute(_FACTS).fetchone()
        settings = dict(driver.execute(SETTINGS).fetchall())
        encrypted = driver.pgconn.ssl_in_use
    major, server_version, superuser, role, replicates, level, senders, standby, tablespaces, size = facts
    if str(major) != MAJOR_VERSION:
        raise refused(
            f"it is PostgreSQL {server_version}, and only PostgreSQL {MAJOR_VERSION} can be restored here",
            "use `--logical`, which dumps the database",
        )
    if not replicates:
        raise refused(
            f"the role {role} lacks the right REPLICATION",
            f"run `ALTER ROLE {quoted(role)} REPLICATION` as a superuser, use the backup role of `tatame-db roles`,"
            " or dump the database with `--logical`",
        )
    if level == "minimal" or senders < 2:
        raise refused(
            f"`wal_level` is {level} and `max_wal_senders` is {senders}",
            "set `wal_level = replica` and `max_wal_senders = 10`, and restart the server",
        )
    if tablespaces:
        raise refused(
            f"it has tablespaces outside its data directory: {', '.join(tablespaces)}",
            "move their tables with `ALTER TABLE … SET TABLESPACE pg_default`, or use `--logical`",
        )
    return _Source(
        version=str(server_version).partition(" ")[0],
        superuser=superuser,
        size_bytes=size,
        settings=settings,
        standby=standby,
        program=program_for("pg_basebackup", address, encrypted=encrypted),
        complete_until=complete_until,
    )
