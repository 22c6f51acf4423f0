"""A drill of the archive: it is replayed on a scratch server, and each row is read there."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.backup.archive_errors import ArchiveDamaged, GapInArchive, ReplayEndedEarly, ReplayFailed
from tatame_db.backup.errors import DrillFailed
from tatame_db.backup.folder import Backup, in_use, refuse_small
from tatame_db.backup.point_in_time import Moment, Replayed, choose_before, replay_of
from tatame_db.backup.restored import contents_of, replay_into, schema_problems, scratch_server, surplus_log
from tatame_db.backup.verify import open_backup
from tatame_db.server.run_directory import new_run_directory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tatame_db.backup.contents import Contents

_LOG_BYTES = 128 << 20
_NEGATIVE_ANSWER = 3


@dataclass(frozen=True)
class ReplayDrilled:
    """A drill of the archive. Nothing compares the rows: no digest of that moment exists."""

    backup: Backup
    replayed: Replayed
    contents: dict[str, Contents]
    """What was read, by database."""
    schema_problems: list[str] | None
    """What `check` finds in the restored database; `None` if no migration has made it."""
    seconds: float
    """To copy, recover and replay."""

    @property
    def error(self) -> DrillFailed | None:
        """The error that states the problems of the schema; `None` if there are none."""
        lines = [f"check: {problem}" for problem in self.schema_problems or []]
        return DrillFailed(backup=self.backup.path, differences=lines) if lines else None


def drill_replay(folder: Path, at: Moment, *, on_stage: Callable[[str], None] = lambda _: None) -> ReplayDrilled:
    """Replay the archive on a scratch server up to a time, read each row, and delete the server.

        backup.drill_replay(Path("/srv/backups"), "latest").replayed

    The base backup itself is compared with its manifest by `drill`, which also notes the result. Raises the errors of
    `restore` with a time.
    """
    path = choose_before(folder.expanduser().absolute(), at)
    with in_use(path):
        backup = open_backup(path)
        manifest = backup.manifest
        try:
            replay = replay_of(backup, at)
        except (ArchiveDamaged, GapInArchive) as error:
            error.exit_code = _NEGATIVE_ANSWER
            raise
        needed = manifest.restored_bytes + replay.size_bytes + _LOG_BYTES + surplus_log(backup.data)
        refuse_small(new_run_directory(on_disk=True), needed, "the scratch server")
        on_stage("replaying the archive on a scratch server")
        started = time.monotonic()
        with scratch_server() as server:
            try:
                replayed = replay_into(server, backup.data, manifest, replay)
            except (ReplayEndedEarly, ReplayFailed) as error:
                error.exit_code = _NEGATIVE_ANSWER
                raise
            seconds = time.monotonic() - started
            found = contents_of(server, manifest, lambda table: on_stage(f"reading {table}"))
            problems = schema_problems(server, manifest, found, on_stage)
    return ReplayDrilled(backup, replayed, found, problems, seconds)
