"""A backup that is restored to see whether it can be, and whether it is what it was."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db import evolve
from tatame_db.backup.contents import differences
from tatame_db.backup.errors import BackupDamaged, DrillFailed, DrillFoundDamage, LiveDiffers
from tatame_db.backup.folder import Backup, choose, in_use, refuse_small
from tatame_db.backup.live import Compared, compare_live, read_live
from tatame_db.backup.record import note_drill
from tatame_db.backup.restored import contents_of, restored_scratch, surplus_log, work_address_of
from tatame_db.backup.verify import open_backup, verify
from tatame_db.database.pool import Database
from tatame_db.server.run_directory import new_run_directory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tatame_db.backup.contents import Contents
    from tatame_db.backup.manifest import Manifest
    from tatame_db.server.embedded import EmbeddedServer

_LOG_BYTES = 128 << 20


@dataclass(frozen=True)
class Drilled:
    """A drill: what differs from the manifest, and how long it took."""

    backup: Backup
    differences: list[str]
    """What differs from the contents of the manifest; empty if nothing does."""
    schema_problems: list[str] | None
    """What `check` finds in the restored database; `None` if no migration has made it."""
    restore_seconds: float
    """To verify, copy and recover: about what a real restore takes on this machine."""
    compare_seconds: float
    live: Compared | None
    """The comparison with the live database, if it was asked for."""
    unrecorded: str | None
    """Why the folder does not have the result, such as that it is read-only."""

    @property
    def error(self) -> DrillFailed | LiveDiffers | None:
        """The error that states the differences; `None` if there are none."""
        lines = [*self.differences, *(f"check: {problem}" for problem in self.schema_problems or [])]
        if lines:
            return DrillFailed(backup=self.backup.path, differences=lines)
        if self.live and self.live.differences:
            return LiveDiffers(backup=self.backup.path, where=self.live.where, differences=self.live.differences)
        return None


def drill(
    folder: Path,
    *,
    live: Database | None = None,
    jobs: int | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
) -> Drilled:
    """Restore a backup, or the newest of a folder, into a scratch server, compare each row, and delete the server.

        backup.drill(Path("/srv/backups")).differences  # []

    The result is noted in the folder, where the doctor and the list of backups find it. With `live`, the restored rows
    are compared with those of a live database too, as they are before the restore begins. Needs room for the whole
    backup, in `TMPDIR` or else /var/tmp. Raises `NoBackup`, `FolderUnreadable`, `DrillFoundDamage`,
    `BackupOfNewerFormat`, `BackupOfOtherVersion`, `SpaceMissing`, and with `live` the errors of `read_live`.
    """
    path = choose(folder.expanduser().absolute())
    started = time.monotonic()
    with in_use(path):
        try:
            backup = open_backup(path)
            on_stage("verifying the checksums")
            verify(backup)
        except BackupDamaged as error:
            note_drill(path, equal=False, seconds=time.monotonic() - started)
            raise DrillFoundDamage(backup=error.backup, reason=error.reason) from error
        manifest = backup.manifest
        needed = manifest.restored_bytes + _LOG_BYTES + surplus_log(backup.data)
        refuse_small(new_run_directory(on_disk=True), needed, "the scratch server")
        beside = (
            read_live(live, backup, lambda table: on_stage(f"reading {table} of the live database")) if live else None
        )
        on_stage("restoring into a scratch server")
        with restored_scratch(backup.data, manifest, jobs=jobs) as server:
            restored = time.monotonic()
            found = contents_of(server, manifest, lambda table: on_stage(f"reading {table}"))
            compared = time.monotonic()
            problems = schema_problems(server, manifest, found, on_stage)
    lines, seconds = differences(manifest.contents, found), restored - started
    return Drilled(
        backup=backup,
        differences=lines,
        schema_problems=problems,
        restore_seconds=seconds,
        compare_seconds=compared - restored,
        live=compare_live(found, beside) if beside else None,
        unrecorded=note_drill(path, equal=not (lines or problems), seconds=seconds),
    )


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
