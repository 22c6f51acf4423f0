"""A backup that is restored to see whether it can be, and whether it is what it was."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tatame_db.backup.contents import differences
from tatame_db.backup.drill_replay import ReplayDrilled, drill_replay
from tatame_db.backup.errors import BackupDamaged, DrillFailed, DrillFoundDamage, LiveDiffers
from tatame_db.backup.folder import Backup, in_use, refuse_small
from tatame_db.backup.live import Compared, compare_live, read_live
from tatame_db.backup.point_in_time import Moment, choose_before
from tatame_db.backup.record import note_drill
from tatame_db.backup.restored import contents_of, restored_scratch, schema_problems, surplus_log
from tatame_db.backup.verify import open_backup, verify
from tatame_db.errors import TatameError
from tatame_db.server.run_directory import new_run_directory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tatame_db.database.pool import Database

_LOG_BYTES = 128 << 20
_NEGATIVE_ANSWER = 3


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
    replayed: ReplayDrilled | None = None
    """The drill of the archive, if it was asked for."""
    unrecorded: str | None = None
    """Why the folder does not have the result, such as that it is read-only."""

    @property
    def error(self) -> DrillFailed | LiveDiffers | None:
        """The error that states the differences; `None` if there are none."""
        lines = [*self.differences, *(f"check: {problem}" for problem in self.schema_problems or [])]
        if lines:
            return DrillFailed(backup=self.backup.path, differences=lines)
        if self.live and self.live.differences:
            return LiveDiffers(backup=self.backup.path, where=self.live.where, differences=self.live.differences)
        return self.replayed.error if self.replayed else None


def drill(
    folder: Path,
    *,
    at: Moment | None = None,
    live: Database | None = None,
    jobs: int | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
) -> Drilled:
    """Restore a backup, or the newest of a folder, into a scratch server, compare each row, and delete the server.

        backup.drill(Path("/srv/backups")).differences  # []

    With `at`, the archive is replayed up to that time on the newest backup before it, if that is equal. With `live`,
    the restored rows are compared with those of a live database too, as they are before the restore begins. The result
    of all is noted in the folder at the end, where the doctor and the list of backups find it; what is interrupted or
    cannot be looked at leaves no note. Needs room for the whole backup, in `TMPDIR` or else /var/tmp.

    Raises `NoBackup`, `FolderUnreadable`, `DrillFoundDamage`, `BackupOfNewerFormat`, `BackupOfOtherVersion`,
    `SpaceMissing`, and with `live` the errors of `read_live`, with `at` those of `drill_replay`.
    """
    path = choose_before(folder.expanduser().absolute(), at)
    started = time.monotonic()
    with in_use(path):
        try:
            drilled = _compare(path, live, jobs, on_stage)
            if at is not None and not drilled.error:
                drilled = replace(drilled, replayed=drill_replay(path, at, on_stage=on_stage))
        except TatameError as error:
            if error.exit_code == _NEGATIVE_ANSWER:
                note_drill(path, equal=False, seconds=time.monotonic() - started)
            raise
        unrecorded = note_drill(path, equal=drilled.error is None, seconds=drilled.restore_seconds)
    return replace(drilled, unrecorded=unrecorded)


def _compare(path: Path, live: Database | None, jobs: int | None, on_stage: Callable[[str], None]) -> Drilled:
    """Restore a backup on a scratch server, and compare it with its manifest and a live database."""
    started = time.monotonic()
    try:
        backup = open_backup(path)
        on_stage("verifying the checksums")
        verify(backup)
    except BackupDamaged as error:
        raise DrillFoundDamage(backup=error.backup, reason=error.reason) from error
    manifest = backup.manifest
    needed = manifest.restored_bytes + _LOG_BYTES + surplus_log(backup.data)
    refuse_small(new_run_directory(on_disk=True), needed, "the scratch server")
    beside = read_live(live, backup, lambda table: on_stage(f"reading {table} of the live database")) if live else None
    on_stage("restoring into a scratch server")
    with restored_scratch(backup.data, manifest, jobs=jobs) as server:
        restored = time.monotonic()
        found = contents_of(server, manifest, lambda table: on_stage(f"reading {table}"))
        compared = time.monotonic()
        problems = schema_problems(server, manifest, found, on_stage)
    return Drilled(
        backup=backup,
        differences=differences(manifest.contents, found),
        schema_problems=problems,
        restore_seconds=restored - started,
        compare_seconds=compared - restored,
        live=compare_live(found, beside) if beside else None,
    )
