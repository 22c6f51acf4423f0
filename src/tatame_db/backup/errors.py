"""The reasons why a backup is not made, not restored, or not what it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tatame_db.database.address import readable
from tatame_db.errors import TatameError, fact, listed

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL

_NO_BACKUP = "No backup was made; earlier ones are untouched."


@fact
class FolderUnusable(TatameError):
    """The folder of the backups cannot be read or written."""

    folder: Path
    reason: str
    what = "{folder} cannot hold backups: {reason}"
    means = _NO_BACKUP
    fix = "name a folder on a disk of its own, which you can write to"


@fact
class FolderUnreadable(TatameError):
    """The folder of the backups cannot be read."""

    folder: Path
    reason: str
    what = "cannot read the folder of the backups, {folder}: {reason}"
    fix = "run the command as the user who makes the backups, or name another folder"


@fact
class BackupRunning(TatameError):
    """Another process makes a backup in the folder."""

    folder: Path
    what = "another backup into {folder} is running"
    means = "No second one was started."
    fix = "wait until it ends, or use another folder"


CITUS_REASON = "its tables are on several servers with Citus, and this command restores one"
CITUS_ADVICE = (
    "while nothing writes, run `pg_dump -Fc -n public -n tatame_migrations` with the address of the coordinator, which"
    ' dumps the rows of all nodes; the page "Citus" shows how it is restored'
)


@fact
class BackupRefused(TatameError):
    """The server gives no backup of this kind, or none that this package can restore."""

    address: URL
    reason: str
    advice: str
    what = "no backup of {where} can be made: {reason}"
    means = _NO_BACKUP
    fix = "{advice}"

    @property
    def where(self) -> str:
        """The address without its password."""
        return readable(self.address)


@fact
class BackupFailed(TatameError):
    """A program failed while it made a backup; the end of its output is in the message."""

    action: str
    output: str
    what = "{action} failed:\n{output}"
    means = "No backup was made, and the incomplete files were deleted; earlier backups are untouched."
    fix = "fix the problem that is reported above, and run the command again"


@fact
class TableLocked(TatameError):
    """Another session has locked a table for so long that its rows could not be read."""

    table: str
    seconds: int
    what = "another session has locked {table} for {seconds:second}"
    means = _NO_BACKUP
    fix = (
        "see which session it is in the line `blocked sessions` of `tatame-db doctor`, and run the command when it ends"
    )


@fact
class DumpRejected(TatameError):
    """The package's PostgreSQL rejected a dump as it was restored; the end of the output is in the message."""

    output: str
    what = "pg_restore failed:\n{output}"
    means = "Nothing that existed was changed; a dump that cannot be restored is no backup."
    fix = "remove what the server of this package lacks, such as an extension; or dump by hand with `pg_dump`"


@fact
class DumpDiffers(TatameError):
    """A restored dump does not hold what its snapshot held."""

    differences: list[str]
    what = "what the dump restores differs from the database:\n{lines}"
    means = "No backup was made, and the incomplete files were deleted; earlier backups are untouched."
    fix = "see whether a trigger, a rule or a type of the database changes values as they are restored"

    @property
    def lines(self) -> str:
        """The differences, one a line."""
        return listed(self.differences)


@fact
class SpaceMissing(TatameError):
    """A disk has too little free space."""

    place: Path
    needed: int
    free: int
    purpose: str
    what = "{place} has {free_mb} MB free, and {purpose} needs about {needed_mb} MB"
    fix = "make room, or use another disk; `TMPDIR` names the place of the scratch server"

    @property
    def free_mb(self) -> str:
        """The free space in megabytes."""
        return f"{self.free >> 20:,}"

    @property
    def needed_mb(self) -> str:
        """The space that is needed, in megabytes."""
        return f"{(self.needed >> 20) + 1:,}"


@fact
class SpaceRanOut(TatameError):
    """The disk became full while a dump was restored; the end of the output is in the message."""

    output: str
    what = "the disk became full while the dump was restored:\n{output}"
    means = "Nothing that existed was changed, and the incomplete files were deleted."
    fix = "make room, or use another disk; `TMPDIR` names the place of the scratch server"


@fact
class OldBackupsStay(TatameError):
    """`--keep` cannot remove old backups."""

    made: Path
    reason: str
    what = "the backup {made} was made and proved, and old ones cannot be removed: {reason}"
    means = "All backups are complete."
    fix = "fix the reason, such as the owner of the files; the next backup with `--keep` tries again"


@fact
class NoBackup(TatameError):
    """A folder has no complete backup."""

    folder: Path
    what = "there is no complete backup in {folder}"
    fix = "make one with `tatame-db backup {folder}`"


@fact
class BackupDamaged(TatameError):
    """A backup is not as it was when it was made."""

    backup: Path
    reason: str
    what = "the backup {backup} is damaged:\n{reason}"
    means = "It was not restored, and nothing else was changed."
    fix = "restore another one by its own path (`tatame-db backups` lists them) or make a new one, and check the disk"


@fact
class DrillFoundDamage(BackupDamaged):
    """A drill found a damaged backup: a negative answer of `restore --drill`."""

    exit_code = 3


@fact
class BackupOfNewerFormat(TatameError):
    """A later version of this package made the backup."""

    backup: Path
    format: int
    known: int
    what = "the backup {backup} has format {format}; the installed package reads formats up to {known}"
    means = "It was not restored, and nothing was changed."
    fix = "upgrade tatame-db"


@fact
class BackupOfOtherVersion(TatameError):
    """Another major version of PostgreSQL wrote the files of the backup."""

    backup: Path
    version: str
    expected: str
    what = "the backup {backup} is of PostgreSQL {version}; this package contains PostgreSQL {expected}"
    means = "It was not restored, and nothing was changed."
    fix = "restore it with a version of the package that contains PostgreSQL {version}"


@fact
class PlaceTaken(TatameError):
    """There are files where a backup is to be restored."""

    place: Path
    what = "{place} exists and is not empty"
    means = "Nothing was restored or overwritten."
    fix = "name a new directory, or replace the server that is there with `--replace`"


@fact
class PlaceUnusable(TatameError):
    """A backup cannot be restored into this directory."""

    place: Path
    reason: str
    what = "no backup can be restored into {place}: {reason}"
    means = "Nothing was restored or overwritten."
    fix = "name another directory"


@fact
class NotInBackup(TatameError):
    """A backup has no database of the name of the live one."""

    backup: Path
    database: str
    databases: list[str]
    what = "the backup {backup} has no database {database} to compare the live one with, but {databases}"
    means = "Nothing was restored or compared."
    fix = "name the live database in `DATABASE_URL`, or drill without `--live`"


@fact
class LiveDiffers(TatameError):
    """The live database differs from what a backup restores: a negative answer of `restore --drill --live`."""

    exit_code = 3
    backup: Path
    where: str
    differences: list[str]
    what = "{where} differs from what the backup {backup} restores:\n{lines}"
    means = (
        "The backup is unchanged; each write since then is a difference too. The scratch server was deleted, and all"
        " databases are untouched."
    )
    fix = "compare right after a backup while nothing writes; otherwise look only at tables that never change"

    @property
    def lines(self) -> str:
        """The differences, one a line."""
        return listed(self.differences)


@fact
class DrillFailed(TatameError):
    """The restored databases differ from the original: a negative answer of `restore --drill`."""

    exit_code = 3
    backup: Path
    differences: list[str]
    what = "what the backup {backup} restores differs from the original:\n{lines}"
    means = "The scratch server was deleted; the backup and all databases are untouched."
    fix = "make a new backup and drill it; keep this one until you know the cause"

    @property
    def lines(self) -> str:
        """The differences, one a line."""
        return listed(self.differences)
