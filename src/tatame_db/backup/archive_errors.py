"""The reasons why the write-ahead log is not archived, or a time is not restored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tatame_db.database.address import readable
from tatame_db.errors import TatameError, fact

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL

_RECEIVED = "What was received is on the disk; the slot {slot} holds the rest on the server."


@fact
class FollowRefused(TatameError):
    """The server gives no write-ahead log, or none that this package can restore."""

    address: URL
    reason: str
    advice: str
    what = "the write-ahead log of {where} cannot be archived: {reason}"
    fix = "{advice}"

    @property
    def where(self) -> str:
        """The address without its password."""
        return readable(self.address)


@fact
class ArchiveFollowed(TatameError):
    """Another process archives into the folder."""

    folder: Path
    what = "another process archives the write-ahead log into {folder}"
    means = "It was not disturbed."
    fix = "stop it first, or use another folder"


@fact
class ArchiveOfOther(TatameError):
    """The folder has the write-ahead log of another server."""

    folder: Path
    what = "{folder} has the write-ahead log of another server"
    fix = "use a folder of its own for each server"


@fact
class ArchiveDamaged(TatameError):
    """A file that describes the archive cannot be read."""

    path: Path
    reason: str
    what = "{path} cannot be read: {reason}"
    fix = "fix it, or rename the folder `wal`; then start `--follow` again, and make a new base backup"


@fact
class ArchiveGap(TatameError):
    """The server has removed write-ahead log that the archive lacks."""

    folder: Path
    slot: str
    reason: str
    what = "the archive in {folder} cannot be continued without a gap: {reason}"
    means = "Nothing was archived over the gap; earlier backups can be restored up to it, and no further."
    fix = (
        "to have the last seconds before it, restore them first with `--at latest`; then continue after the gap with"
        " `tatame-db backup {folder} --follow --after-gap`, and make a new base backup at once: `tatame-db backup"
        " {folder}`"
    )


@fact
class ArchiveFull(TatameError):
    """The disk of the archive is full."""

    folder: Path
    slot: str
    what = "the disk of {folder} is full"
    means = _RECEIVED + " It does so until its own disk is full, and then it stops."
    fix = "make room, for example by deleting the oldest backup, and start `--follow` again"


@fact
class ReceiverFailed(TatameError):
    """pg_receivewal failed several times, and the server answers."""

    slot: str
    output: str
    what = "pg_receivewal failed:\n{output}"
    means = _RECEIVED
    fix = "fix the problem that is reported above, and run the command again"


@fact
class SlotsTaken(TatameError):
    """The server has no free replication slot."""

    address: URL
    what = "all replication slots of {where} are in use"
    fix = (
        "drop one that is not needed (`pg_replication_slots`), or raise `max_replication_slots` and restart the server"
    )

    @property
    def where(self) -> str:
        """The address without its password."""
        return readable(self.address)


@fact
class NoArchive(TatameError):
    """A backup has no archive that continues it."""

    backup: Path
    reason: str
    what = "the backup {backup} restores only the moment at which it ended: {reason}"
    means = "Nothing was restored."
    fix = "restore it without `--at`; for the next time, archive the log with `tatame-db backup DIR --follow`"


@fact
class TimeOutOfReach(TatameError):
    """A time is before the first backup, or after the end of the archive."""

    subject: str
    time: str
    first: str
    last: str
    what = "{subject} restores the times from {first} to {last}, and {time} is not one of them"
    means = "Nothing was restored."
    fix = "name a time in between, or restore all that is archived with `--at latest`"


@fact
class GapInArchive(TatameError):
    """The archive between a backup and the time is not whole."""

    backup: Path
    gap: str
    last: str
    what = "the archive after {backup} has a gap: {gap}; what is before it ends at {last}"
    means = "Nothing was restored."
    fix = (
        'restore what is before it with `--at "{last}"`, or after `--follow --after-gap` up to the gap itself with'
        " `--at latest` and the path {backup}; or look for what is missing in a copy of the archive"
    )


@fact
class ClockSetBack(TatameError):
    """The clock of the server was set back, and a time is one of those that it had twice."""

    backup: Path
    time: str
    first: str
    last: str
    what = "{time} is no single moment of the server: after {first} its clock was ahead up to {last}, and was set back"
    means = "Nothing was restored, because commits before that time would be missing."
    fix = "restore a time before {first} or after {last}, or all that is archived with `--at latest`"


@fact
class ReplayEndedEarly(TatameError):
    """The archive ended, or was damaged, before the time was reached."""

    backup: Path
    time: str
    last: str
    reason: str
    what = "the archive ended before {time}; its last transaction is of {last}{reason}"
    means = "The incomplete server was deleted, and nothing else was changed."
    fix = (
        "restore an earlier time, or look for the missing file in a copy of the archive; `tatame-db backups` shows gaps"
    )


@fact
class ReplayFailed(TatameError):
    """PostgreSQL could not recover with the archive; the end of its log is in the message."""

    backup: Path
    output: str
    what = "PostgreSQL cannot replay the archive on the backup {backup}:\n{output}"
    means = "The incomplete server was deleted, and nothing else was changed."
    fix = "name another time, or restore an earlier backup by its own path"


@fact
class DatabaseBeingRemoved(TatameError):
    """At a time that is to be restored, a `DROP DATABASE` was running."""

    backup: Path
    time: str
    database: str
    what = "at {time}, a DROP DATABASE was removing the files of {database}"
    means = "The incomplete server was deleted, and nothing else was changed."
    fix = "restore an earlier time, before the command began, or a later one, when it had ended"
