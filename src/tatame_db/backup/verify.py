"""A backup that is read again, before it is restored: its manifest, its list of files, and each file."""

from __future__ import annotations

import hashlib
import stat
from typing import TYPE_CHECKING

from tatame_db.backup.errors import BackupDamaged, BackupOfOtherVersion
from tatame_db.backup.folder import DATA, Backup
from tatame_db.backup.manifest import read_manifest
from tatame_db.backup.programs import ProgramRejected, verify_files
from tatame_db.errors import listed
from tatame_db.server.wheel import MAJOR_VERSION

if TYPE_CHECKING:
    from pathlib import Path

FILES = "backup_manifest"
"""PostgreSQL's list of the files, in their directory."""


def checksum_of(data: Path, *, logical: bool = False) -> str:
    """Return the checksum of the list of files; of a dump, that of a list of its files and their checksums."""
    if not logical:
        return hashlib.sha256((data / FILES).read_bytes()).hexdigest()
    lines: list[str] = []
    for path in sorted(data.iterdir()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def open_backup(path: Path) -> Backup:
    """Read the manifest of a backup, and refuse one that cannot be restored here; reads no file of the data.

    Raises `BackupDamaged`, `BackupOfNewerFormat`, `BackupOfOtherVersion`.
    """
    manifest = read_manifest(path)
    if int(manifest.major_version) > int(MAJOR_VERSION) or not (
        manifest.is_logical or manifest.major_version == MAJOR_VERSION
    ):
        raise BackupOfOtherVersion(backup=path, version=manifest.major_version, expected=MAJOR_VERSION)
    return Backup(path, manifest)


def verify(backup: Backup) -> None:
    """Read each file of a backup and compare it with its checksum. Raises `BackupDamaged`."""
    try:
        found = checksum_of(backup.data, logical=backup.manifest.is_logical)
    except OSError as error:
        raise _damaged(backup, f"{DATA}/{FILES}: {error.strerror}") from error
    if backup.manifest.is_logical:
        if found != backup.manifest.files_sha256:
            raise _damaged(backup, f"a file in {DATA} is missing, new, or not as it was written")
        return
    if found != backup.manifest.files_sha256:
        raise _damaged(backup, f"{DATA}/{FILES} is not the list of files that was written with it")
    try:
        verify_files(backup.data)
    except ProgramRejected as error:
        raise BackupDamaged(backup=backup.path, reason=str(error)) from None
    # The superuser of the system reads any file, and PostgreSQL, which is another user, would not.
    for path in backup.data.rglob("*"):
        if not path.lstat().st_mode & stat.S_IRUSR:
            raise _damaged(backup, f"{path.relative_to(backup.path)} has lost the right to be read")


def _damaged(backup: Backup, reason: str) -> BackupDamaged:
    return BackupDamaged(backup=backup.path, reason=listed([reason]))
