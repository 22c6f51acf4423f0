"""The old backups of a folder that a new one replaces: those of the same origin and kind, and no others."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from typing import TYPE_CHECKING

from tatame_db.backup.archive import reach_of, read_archive, remove_unneeded
from tatame_db.backup.archive_errors import ArchiveDamaged
from tatame_db.backup.errors import OldBackupsStay
from tatame_db.backup.files import regular
from tatame_db.backup.folder import PART, Backup, complete
from tatame_db.backup.history import history_of
from tatame_db.backup.manifest import MANIFEST, Manifest, read_manifest
from tatame_db.backup.waldump import lsn_of
from tatame_db.errors import TatameError

if TYPE_CHECKING:
    from pathlib import Path

    from tatame_db.backup.archive import Archive


def remove_old(made: Backup, keep: int) -> list[str]:
    """Remove all but the newest `keep` backups like a new one, which stays in any case; return the names removed.

    Like it are base backups of the same server, or dumps of the same database of the same server. A backup that cannot
    be read may be of another, and stays; so does one that cannot be shown to be of the same history. One that is being
    restored stays too, and the newest one that the archive continues, as long as it continues none of those that stay.

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
    others = [backup for backup in _readable(folder) if backup.path != made.path and _alike(archive, backup, made)]
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


def _alike(archive: Archive | None, one: Backup, made: Backup) -> bool:
    if _kind(one.manifest) != _kind(made.manifest):
        return False
    try:
        return made.manifest.is_logical or _is_earlier(archive, one, made)
    except ArchiveDamaged:
        # The files of a backup name no timeline.
        return False


def _is_earlier(archive: Archive | None, one: Backup, made: Backup) -> bool:
    """Whether a base backup is of the history of a new one, and not of a server that shares its identity.

    A copy that was promoted looks like a failover: the archive alone shows that the server itself went on so.
    """
    before, now = history_of(one), history_of(made)
    end, last = lsn_of(one.manifest.stop_lsn), lsn_of(made.manifest.stop_lsn)
    if before.restores != now.restores or before.ancestors is None or now.ancestors is None:
        return False
    if one.manifest.ended < made.manifest.ended and end > last:
        # The disk was set back since.
        return False
    if archive and any(era.has_log_of(one) for era in archive.earlier):
        # A gap follows its log, and the server may have been set back there: some commits are in no other backup.
        return False
    if archive and archive.state.system_identifier == made.manifest.system_identifier:
        is_archived = archive.has_log_of(made) is not False
        if is_archived and archive.has_log_of(one) is False:
            return False
        if before.timeline in now.ancestors and before.ancestors.items() <= now.ancestors.items():
            return is_archived and archive.leads_to(now) and end <= now.ancestors[before.timeline]
    return before.timeline == now.timeline and before.ancestors == now.ancestors


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
        with regular(path / MANIFEST).open() as manifest:
            fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Half of a backup must not look whole.
            half = path.rename(path.with_name(path.name + PART))
    except BlockingIOError:
        return False
    shutil.rmtree(half, ignore_errors=True)
    return True
