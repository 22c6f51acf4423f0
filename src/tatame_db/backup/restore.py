"""A backup that becomes a server in a directory of its own."""

from __future__ import annotations

import contextlib
import fcntl
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from psycopg import sql

from tatame_db.backup.errors import PlaceTaken, PlaceUnusable
from tatame_db.backup.folder import Backup, in_use, refuse_small
from tatame_db.backup.point_in_time import Moment, Replayed, choose_before, replay_of
from tatame_db.backup.restored import address_of, new_server, replay_into, restore_into, surplus_log, work_address_of
from tatame_db.backup.verify import open_backup, verify
from tatame_db.database.driver import driver_connection
from tatame_db.database.pool import Database
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.server.names import ServerNames
from tatame_db.server.replacement import former_place, restored_part

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from sqlalchemy import URL

    from tatame_db.backup.manifest import Manifest

_LOG_BYTES = 64 << 20


@dataclass(frozen=True)
class Restored:
    """A server that runs on what a backup held."""

    backup: Backup
    server: EmbeddedServer
    databases: dict[str, URL]
    replaced: Path | None
    """Where the server that was replaced is now."""
    seconds: float
    replayed: Replayed | None = None
    """What of the archive was replayed; `None` without a time."""


def restore(
    folder: Path,
    place: Path,
    *,
    at: Moment | None = None,
    replace: bool = False,
    jobs: int | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
) -> Restored:
    """Restore a backup, or the newest of a folder, into a new directory, and start a server on it.

        backup.restore(Path("/srv/backups"), Path("/srv/tatame"))

    With `at`, the archive is replayed up to that time, or with `latest` to its end, on the newest backup before it. Of
    a backup before a gap that is named by its path, the latest is the end of the log before the gap.

    The files are verified first. The directory gets its name when the server has recovered; a failure or Ctrl-C leaves
    nothing of it. With `replace`, the embedded server that is there is stopped and moved beside it, and comes back if
    the restored one does not start. Of a dump, as many tables as there are `jobs` are restored at a time.

    Raises `NoBackup`, `BackupDamaged`, `BackupOfNewerFormat`, `BackupOfOtherVersion`, `PlaceTaken`, `PlaceUnusable`,
    `SpaceMissing`, and the errors of `EmbeddedServer.start`; with `at` also `NoArchive`, `GapInArchive`,
    `TimeOutOfReach`, `ReplayEndedEarly`, `ReplayFailed`, `ArchiveDamaged`.
    """
    started = time.monotonic()
    place = place.expanduser().absolute()
    folder = folder.expanduser().absolute()
    path = choose_before(folder, at)
    with in_use(path):
        backup = open_backup(path)
        _refuse_place(place, path, replace=replace)
        replay = None if at is None else replay_of(backup, at, to_gap=path == folder)
        on_stage("verifying the checksums")
        verify(backup)
        log_bytes = _LOG_BYTES + surplus_log(backup.data) + (replay.size_bytes if replay else 0)
        refuse_small(place, backup.manifest.restored_bytes + log_bytes, "the restored server")
        with _part_of(place) as part:
            on_stage("copying and recovering")
            server = new_server(part, durable=True)
            try:
                replayed = None
                if replay:
                    replayed = replay_into(server, backup.data, backup.manifest, replay)
                else:
                    restore_into(server, backup.data, backup.manifest, jobs=jobs)
                on_stage("recovered")
                if not backup.manifest.is_logical:
                    _renew_password(server, backup.manifest)
                server.write_names(ServerNames(backup.manifest.superuser, backup.manifest.database))
                # What exists is replaced only now: this one runs.
                server.stop()
                replaced = _exchange(server, place)
            except OSError as error:
                raise PlaceUnusable(place=place, reason=error.strerror or str(error)) from error
            finally:
                if part.exists():
                    server.delete()
    final = EmbeddedServer(place)
    names = {name: address_of(final, backup.manifest, name) for name in backup.manifest.contents}
    return Restored(backup, final, names, replaced, time.monotonic() - started, replayed)


def _refuse_place(place: Path, backup: Path, *, replace: bool) -> None:
    if place.is_relative_to(backup) or backup.is_relative_to(place):
        raise PlaceUnusable(place=place, reason="it and the backup are in one another")
    try:
        _refuse_content(place, replace=replace)
    except OSError as error:
        raise PlaceUnusable(place=place, reason=error.strerror or str(error)) from error


def _refuse_content(place: Path, *, replace: bool) -> None:
    if not place.exists():
        return
    if not place.is_dir() or (any(place.iterdir()) and not replace):
        raise PlaceTaken(place=place)
    if any(place.iterdir()) and not EmbeddedServer(place).has_data:
        raise PlaceUnusable(place=place, reason="it holds files that are not an embedded server's, which stay")


@contextlib.contextmanager
def _part_of(place: Path) -> Generator[Path]:
    """Yield an empty directory beside the place, and keep other processes out of it; a killed one may have left it."""
    lock_file = place.with_name(f".{place.name}.lock")
    part = restored_part(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_file.open("a")
    except OSError as error:
        raise PlaceUnusable(place=place, reason=error.strerror or str(error)) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PlaceUnusable(place=place, reason="another restore into it is running") from None
        except OSError as error:
            raise PlaceUnusable(place=place, reason=f"its file system gives no locks ({error.strerror})") from error
        if part.exists() and not EmbeddedServer(part).delete():
            raise PlaceUnusable(place=place, reason=f"{part} exists and is not what a restore left")
        try:
            yield part
        finally:
            lock_file.unlink(missing_ok=True)


def _renew_password(server: EmbeddedServer, manifest: Manifest) -> None:
    """Give the superuser a new password, which is in the server's directory as that of every embedded server."""
    password = secrets.token_urlsafe(18)
    with (
        Database(work_address_of(server, manifest, "postgres")) as database,
        database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
    ):
        statement = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(manifest.superuser), password)
        driver_connection(connection).execute(statement)
    server.write_password(password)


def _exchange(server: EmbeddedServer, place: Path) -> Path | None:
    """Give the directory of a stopped server its final name and start it; what was there comes back if it fails."""
    before = former_place(place, f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    replaces = place.exists() and any(place.iterdir())
    try:
        if replaces:
            EmbeddedServer(place).rename(before)
        elif place.exists():
            place.rmdir()
        server.rename(place).start()
    except BaseException:
        if replaces:
            if before.exists():
                if place.exists():
                    EmbeddedServer(place).delete()
                before.rename(place)
            EmbeddedServer(place).start()
        elif place.exists():
            EmbeddedServer(place).delete()
        raise
    return before if replaces else None
