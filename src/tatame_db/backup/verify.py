"""A backup that is read again, before it is restored: its manifest, its list of files, and each file."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from tatame_db.backup.errors import BackupDamaged, BackupOfOtherVersion
from tatame_db.backup.files import regular
from tatame_db.backup.folder import DATA, Backup
from tatame_db.backup.manifest import read_manifest
from tatame_db.backup.programs import ProgramRejected, verify_files
from tatame_db.errors import listed
from tatame_db.server.wheel import MAJOR_VERSION

FILES = "backup_manifest"
"""PostgreSQL's list of the files, in their directory."""


DUMP_FILES = "files.sha256"
"""The list of the files of a dump, beside their directory, as `sha256sum` writes it."""
_SHOWN_FILES = 8


def checksum_of(data: Path) -> str:
    """Return the checksum of PostgreSQL's list of files."""
    return hashlib.sha256(regular(data / FILES).read_bytes()).hexdigest()


def list_dump(data: Path) -> bytes:
    """Return the list of the files of a dump; its checksum is in the manifest."""
    lines: list[bytes] = []
    for path in sorted(data.iterdir()):
        with regular(path).open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  ".encode() + os.fsencode(path.name))
    return b"".join(line + b"\n" for line in lines)


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
        if backup.manifest.is_logical:
            _verify_dump(backup, list_dump(backup.data))
            return
        found = checksum_of(backup.data)
    except OSError as error:
        path = Path(error.filename or backup.data / FILES)
        name = path.relative_to(backup.path) if path.is_relative_to(backup.path) else path
        raise _damaged(backup, f"{name}: {error.strerror}") from error
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


def _verify_dump(backup: Backup, found: bytes) -> None:
    if hashlib.sha256(found).hexdigest() == backup.manifest.files_sha256:
        return
    try:
        written = regular(backup.path / DUMP_FILES).read_bytes()
    except OSError:
        # Earlier versions of this package wrote none.
        written = b""
    if hashlib.sha256(written).hexdigest() != backup.manifest.files_sha256:
        raise _damaged(backup, f"a file in {DATA} is missing, new, or not as it was written")
    before, now = _checksums(written), _checksums(found)
    lines = [f"{DATA}/{name} is missing" for name in sorted(before.keys() - now.keys())]
    lines += [f"{DATA}/{name} is new" for name in sorted(now.keys() - before.keys())]
    lines += [
        f"{DATA}/{name} is not as it was written"
        for name in sorted(before.keys() & now.keys())
        if before[name] != now[name]
    ]
    raise _damaged(backup, *lines[:_SHOWN_FILES])


def _checksums(files: bytes) -> dict[str, str]:
    lines = (line.partition("  ") for line in files.decode(errors="replace").split("\n"))
    return {name: checksum for checksum, _, name in lines if name}


def _damaged(backup: Backup, *reasons: str) -> BackupDamaged:
    return BackupDamaged(backup=backup.path, reason=listed([*reasons]))
