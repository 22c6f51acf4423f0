"""A server on a copy of a backup's files, with settings of its own."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

from psycopg import sql

from tatame_db import evolve
from tatame_db.backup.contents import LIMITS, contents_of_dump, contents_of_server
from tatame_db.backup.files import copy_file
from tatame_db.backup.folder import refuse_scratch
from tatame_db.backup.history import RESTORES
from tatame_db.backup.marks import SEGMENT
from tatame_db.backup.programs import restore_dump
from tatame_db.backup.recovery import invalid_databases, recover, write_target
from tatame_db.database.creation import create_database, maintenance
from tatame_db.database.driver import driver_connection
from tatame_db.database.pool import Database
from tatame_db.server import run_directory
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.server.scratch import delete_dead_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from sqlalchemy import URL

    from tatame_db.backup.contents import Contents
    from tatame_db.backup.manifest import Manifest
    from tatame_db.backup.point_in_time import Replay, Replayed

SETTINGS = """
SELECT name, setting FROM pg_settings WHERE name IN ('default_text_search_config', 'max_connections',
    'max_locks_per_transaction', 'max_prepared_transactions', 'max_wal_senders', 'max_worker_processes') ORDER BY 1
"""
"""Of these the restored server needs at least as much as the original, or texts would be searched differently."""
_ORIGINAL = ".original"
_REPLACED = ("postgresql.conf", "postgresql.auto.conf", "pg_hba.conf")
_SIGNALS = ("standby.signal", "recovery.signal")
_NOTE = f"""# Written by `tatame-db restore`; the settings of the original are in the files *{_ORIGINAL}.
# They may name an archive, a standby or a library that this server must not or cannot use.
# Subscriptions of the original stay quiet until this line is removed:
max_logical_replication_workers = 0
"""
_ACCESS = f"""# Written by `tatame-db restore`; the rules of the original are in pg_hba.conf{_ORIGINAL}.
# The socket is in a directory that only the server's user can enter.
local all all trust
local replication all trust
host all all 127.0.0.1/32 scram-sha-256
host all all ::1/128 scram-sha-256
"""
_COMMON_SEGMENT = 16 << 20
# A new timeline begins one, and the next is created early.
_NEW_SEGMENTS = 3
# A recovery may take hours, and reports its progress in the log.
_RECOVERY_SECONDS = 7 * 24 * 3600


def new_server(directory: Path, *, durable: bool) -> EmbeddedServer:
    """Return a server that may take any time to start."""
    return EmbeddedServer(directory, durable=durable, start_seconds=_RECOVERY_SECONDS)


def address_of(server: EmbeddedServer, manifest: Manifest, database: str) -> URL:
    """Return the address of a restored database, for the role that made the cluster."""
    return server.address.set(username=manifest.superuser, database=database)


def work_address_of(server: EmbeddedServer, manifest: Manifest, database: str) -> URL:
    """Return that address without the time limits that the original gave the role or the database."""
    address = address_of(server, manifest, database)
    return address.update_query_dict({"options": " ".join(f"-c {name}=0" for name in LIMITS)})


def surplus_log(data: Path) -> int:
    """Return the room that a server on a copy of the data needs for its log, beyond one with common segments."""
    return max(0, _segment_bytes(data) - _COMMON_SEGMENT) * _NEW_SEGMENTS


def _segment_bytes(data: Path) -> int:
    found = (path.stat().st_size for path in (data / "pg_wal").glob("0*") if SEGMENT.fullmatch(path.name))
    return next(found, _COMMON_SEGMENT)


def _log_settings(data: Path) -> str:
    """Return settings without which a server with large segments does not start."""
    size = _segment_bytes(data)
    if size <= _COMMON_SEGMENT:
        return ""
    return f"min_wal_size = '{2 * size >> 20}MB'\nmax_wal_size = '{max(1 << 30, 4 * size) >> 20}MB'\n"


@contextlib.contextmanager
def scratch_server() -> Generator[EmbeddedServer]:
    """Yield a server without data in a temporary directory on disk, and delete both at the end.

    At the start, the leftovers of killed processes are deleted too.
    """
    refuse_scratch()
    directory = run_directory.new_run_directory(on_disk=True)
    server = new_server(directory / "server", durable=False)
    with run_directory.join(directory):
        try:
            delete_dead_runs(directory)
            yield server
        finally:
            server.delete()
            shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def restored_scratch(data: Path, manifest: Manifest, *, jobs: int | None = None) -> Generator[EmbeddedServer]:
    """Start a scratch server on a copy of a backup's data; it sends nothing to other servers and archives."""
    with scratch_server() as server:
        restore_into(server, data, manifest, jobs=jobs)
        yield server


def replay_into(server: EmbeddedServer, data: Path, manifest: Manifest, replay: Replay) -> Replayed:
    """Fill a new server with what a backup holds, start it, and replay the archive on it."""
    address = work_address_of(server, manifest, "postgres")

    def run(replay: Replay) -> Replayed:
        def write(half: Path) -> None:
            copy_data(data, half, manifest.settings)
            replay.write(half)

        server.fill(write)
        return replay.run(server, address)

    replayed = run(replay)
    if (invalid := invalid_databases(address)) and not isinstance(replay.at, str):
        server.delete()
        replay = replay.up_to_commit(replayed.stop)
        replayed = run(replay)
        invalid = invalid_databases(address)
        replay.refuse_removed(invalid, replayed.stop)
    return replace(replayed, dropping=tuple(sorted(invalid)))


def restore_into(server: EmbeddedServer, data: Path, manifest: Manifest, *, jobs: int | None = None) -> None:
    """Fill a new server with what a backup holds, and start it; of a dump, `jobs` tables at a time."""
    if not manifest.is_logical:

        def write(half: Path) -> None:
            copy_data(data, half, manifest.settings)
            write_target(half)

        server.fill(write)
        recover(server, work_address_of(server, manifest, "postgres"))
        return
    server.start()
    address = work_address_of(server, manifest, manifest.database)
    with maintenance(address) as connection:
        # Each server has this one, and a new server has it empty.
        if manifest.database != "postgres":
            create_database(connection, address, template="template0")
        for role in manifest.roles:
            connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    restore_dump(address, data, jobs=jobs)


def contents_of(server: EmbeddedServer, manifest: Manifest, on_table: Callable[[str], None]) -> dict[str, Contents]:
    """Read what a restored server holds of what the backup held."""
    if not manifest.is_logical:
        return contents_of_server(work_address_of(server, manifest, "postgres"), on_table)
    with (
        Database(work_address_of(server, manifest, manifest.database)) as database,
        database.engine.connect() as connection,
    ):
        return {manifest.database: contents_of_dump(driver_connection(connection), on_table)}


def schema_problems(
    server: EmbeddedServer, manifest: Manifest, found: dict[str, Contents], on_stage: Callable[[str], None]
) -> list[str] | None:
    """Return what `check` finds in a restored database; `None` if no migration has made it."""
    if manifest.database not in found or not found[manifest.database].revision:
        return None
    on_stage("checking the schema")
    with Database(work_address_of(server, manifest, manifest.database)) as database:
        check = evolve.check(database.engine)
    return [*(check.database or []), *check.edited]


def copy_data(data: Path, target: Path, settings: dict[str, str]) -> None:
    """Copy the data of a backup, and replace its settings and its rules of access."""
    shutil.copytree(data, target, symlinks=True, copy_function=copy_file)
    for name in _REPLACED:
        with contextlib.suppress(FileNotFoundError):
            (target / name).rename(target / (name + _ORIGINAL))
    for name in _SIGNALS:
        (target / name).unlink(missing_ok=True)
    with (target / RESTORES).open("a") as file:
        file.write(f"{secrets.token_hex(8)}\n")
    lines = "".join("{} = '{}'\n".format(name, value.replace("'", "''")) for name, value in settings.items())
    # Tablespaces within the data directory, without which PostgreSQL refuses to recover.
    inside = any(not path.is_symlink() for path in (data / "pg_tblspc").glob("*"))
    lines += "allow_in_place_tablespaces = on\n" * inside
    (target / "postgresql.conf").write_text(_NOTE + lines + _log_settings(data))
    (target / "pg_hba.conf").write_text(_ACCESS)
    (target / "pg_ident.conf").touch()
