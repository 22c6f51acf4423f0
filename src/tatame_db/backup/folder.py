"""A folder of backups: which are complete, and what a killed process left.

A backup has a name of digits, and only a rename gives it that name: what looks whole is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tatame_db.backup.errors import (
    BackupDamaged,
    BackupRunning,
    FolderUnreadable,
    FolderUnusable,
    NoBackup,
    PlaceUnusable,
    SpaceMissing,
)
from tatame_db.backup.files import regular
from tatame_db.backup.manifest import MANIFEST, Manifest, read_manifest
from tatame_db.errors import TatameError

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import IO

PART = ".part"
DATA = "data"
LOCK = ".tatame-db-backups"
_NAME = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
_NAME_FORMAT = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Backup:
    """A complete backup."""

    path: Path
    manifest: Manifest

    @property
    def data(self) -> Path:
        """The copy of the server's files."""
        return self.path / DATA


@dataclass(frozen=True)
class Listed:
    """A backup of a folder, which may be damaged."""

    path: Path
    manifest: Manifest | None
    problem: str | None
    """Why it cannot be restored, as far as its manifest and the sizes of its files show it."""


@contextlib.contextmanager
def locked(folder: Path) -> Generator[IO[str]]:
    """Create the folder if it is missing, and keep other backups out of it.

    Raises `BackupRunning`, `FolderUnusable`.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # No one else may hold it, whatever the umask is.
        lock = os.fdopen(os.open(folder / LOCK, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a")
    except OSError as error:
        raise FolderUnusable(folder=folder, reason=error.strerror or str(error)) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupRunning(folder=folder) from None
        except OSError as error:
            # Some network file systems have no locks, without which two backups could disturb each other.
            reason = f"its file system gives no locks ({error.strerror})"
            raise FolderUnusable(folder=folder, reason=reason) from error
        yield lock


def new_name(folder: Path) -> str:
    """Return the name of a new backup: the time in UTC, to the second."""
    while (folder / (name := f"{datetime.now(UTC):{_NAME_FORMAT}}")).exists():
        # Another was made within this second.
        pass
    return name


def complete(folder: Path) -> list[Path]:
    """Return the complete backups of a folder, the one that ended last at the end. Raises `FolderUnreadable`."""
    try:
        if not folder.is_dir():
            return []
        return _complete(folder)
    except OSError as error:
        raise FolderUnreadable(folder=folder, reason=error.strerror or str(error)) from error


def _complete(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: (_ended(path), path.name))


def _ended(path: Path) -> datetime:
    """When a backup ended; of one that cannot be read, when it began by its name, so that it is not passed over."""
    try:
        return read_manifest(path).ended
    except TatameError:
        with contextlib.suppress(ValueError):
            return datetime.strptime(path.name, _NAME_FORMAT).replace(tzinfo=UTC)
        return datetime.max.replace(tzinfo=UTC)


def list_backups(folder: Path) -> list[Listed]:
    """List the backups of a folder, the newest last; reads manifests and sizes, and no file of the data."""
    found: list[Listed] = []
    for path in complete(folder):
        try:
            manifest = read_manifest(path)
            size = size_of(path / DATA)
            problem = None if size == manifest.size_bytes else f"{size:,} bytes, not {manifest.size_bytes:,}"
            found.append(Listed(path, manifest, problem))
        except (TatameError, OSError) as error:
            # `--keep` may have removed it meanwhile.
            if path.exists():
                found.append(Listed(path, None, " ".join(_in_words(error, path).split())))
    return found


def _in_words(error: TatameError | OSError, backup: Path) -> str:
    """Return the problem of a backup; its path is beside it."""
    if isinstance(error, BackupDamaged):
        return error.reason
    if isinstance(error, TatameError):
        return error.what
    file = Path(error.filename or backup)
    name = file.relative_to(backup) if file.is_relative_to(backup) else file
    return f"{name} cannot be read: {error.strerror or error}"


def choose(place: Path) -> Path:
    """Return the path of a backup: this one, or the newest of a folder. Raises `NoBackup`, `FolderUnreadable`."""
    with contextlib.suppress(PermissionError):
        if _NAME.fullmatch(place.name) or (place / MANIFEST).exists():
            return place
    if not (found := complete(place)):
        raise NoBackup(folder=place)
    return found[-1]


@contextlib.contextmanager
def in_use(backup: Path) -> Generator[None]:
    """Keep a backup from being removed while it is read."""
    with contextlib.ExitStack() as stack:
        # Without one it is damaged, which its reader reports.
        with contextlib.suppress(OSError):
            manifest = stack.enter_context(regular(backup / MANIFEST).open())
            fcntl.flock(manifest, fcntl.LOCK_SH)
        yield


def remove_leftovers(folder: Path) -> None:
    """Remove incomplete backups; the caller holds the lock, so that no live process writes one."""
    for path in folder.glob(f"*{PART}"):
        if _NAME.fullmatch(path.name.removesuffix(PART)):
            shutil.rmtree(path, ignore_errors=True)


def size_of(directory: Path) -> int:
    """Return the bytes of all files."""
    return sum(
        (file.lstat().st_size for file in directory.rglob("*") if file.is_file() and not file.is_symlink()), start=0
    )


def refuse_small(place: Path, needed: int, purpose: str) -> None:
    """Raise `SpaceMissing` if the disk of a directory that may not exist yet has too little room."""
    existing = next(parent for parent in (place, *place.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise SpaceMissing(place=place, needed=needed, free=free, purpose=purpose)


def refuse_scratch() -> None:
    """Raise `PlaceUnusable` if `TMPDIR` names no directory for a scratch server; Python would silently use another."""
    named = os.environ.get("TMPDIR")
    if named and not (Path(named).is_dir() and os.access(named, os.W_OK | os.X_OK)):
        raise PlaceUnusable(place=Path(named), reason="`TMPDIR` names it, and it is no directory that you can write to")


def sync(directory: Path) -> None:
    """Write the names in a directory to the disk."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
