"""The old backups of a folder that a new one replaces: those of the same origin and kind, and no others."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from typing import TYPE_CHECKING

from tatame_db.backup.archive import reach_of, read_archive, remove_unneeded
from tatame_db.backup.archive_errors import ArchiveDamaged
from tatame_db.backup.errors import OldBackupsStay
from tatame_db.backup.folder import PART, Backup, complete
from tatame_db.backup.manifest import MANIFEST, Manifest, read_manifest
from tatame_db.errors import TatameError

if TYPE_CHECKING:
    from pathlib import Path

    from tatame_db.backup.archive import Archive


def remove_old(made: Backup, keep: int) -> list[str]:
    """Remove all but the newest `keep` backups like a new one, which stays in any case; return the names removed.

    Like it are base backups of the same server, or dumps of the same database of the same server. A backup that cannot
    be read may be of another, and stays. So does one that is being restored, and the newest one that the archive
    continues, as long as it continues none of those that stay.

    The segments of the archive that no backup needs any more are removed too. Raises `OldBackupsStay`.
    """
    try:
        archive = read_archive(made.path.parent)
        removed = [backup.path.name for backup in _old(archive, made, keep) if _remove(backup.path)]
        remove_unneeded(made.path.parent)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise OldBackupsStay(made=made.path, reason=reason) from error
    except ArchiveDamaged as error:
        raise OldBackupsStay(made=made.path, reason=error.what) from error
    return removed


def _old(archive: Archive | None, made: Backup, keep: int) -> list[Backup]:
    """Return the backups to remove, the oldest first."""
    folder = made.path.parent
    others = [backup for backup in _readable(folder) if backup.path != made.path and _alike(backup, made)]
    others.sort(key=lambda backup: (backup.manifest.ended, backup.path.name), reverse=True)
    stay, old = [made, *others[: keep - 1]], others[keep - 1 :]
    if not any(_continues(archive, backup) for backup in stay):
        needed = next((backup for backup in old if _continues(archive, backup)), None)
        old = [backup for backup in old if backup != needed]
    return old[::-1]


def _readable(folder: Path) -> list[Backup]:
    found: list[Backup] = []
    for path in complete(folder):
        with contextlib.suppress(TatameError):
            found.append(Backup(path, read_manifest(path)))
    return found


def _alike(one: Backup, other: Backup) -> bool:
    return _kind(one.manifest) == _kind(other.manifest)


def _kind(manifest: Manifest) -> tuple[str, str, str]:
    return manifest.method, manifest.system_identifier, manifest.database if manifest.is_logical else ""


def _continues(archive: Archive | None, backup: Backup) -> bool:
    try:
        reach = reach_of(archive, backup)
    except ArchiveDamaged:
        # The files of the backup name no timeline.
        return False
    return bool(reach and reach.segments)


def _remove(path: Path) -> bool:
    """Remove a backup, unless it is being restored. Raises `OSError`."""
    try:
        with (path / MANIFEST).open() as manifest:
            fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Half of a backup must not look whole.
            half = path.rename(path.with_name(path.name + PART))
    except BlockingIOError:
        return False
    shutil.rmtree(half, ignore_errors=True)
    return True
